"""DICOM as it comes out of archives: every volume is one volume, of one patient, or is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyfree_ray.cli import main
from hyfree_ray.importers.dicom import dicom
from hyfree_ray.importers.raw_set import every_left_out
from hyfree_ray.importers.source import Source
from tests.dicom_files import (
    COLUMNS,
    SPACING,
    pixels,
    uid,
    write_slice,
    write_stack,
)
from tests.refusals import refused, refuses


def run(source: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["import", "dicom", str(source), str(out), *options])


def volumes(source: Source) -> list[sitk.Image]:
    return [source.read_images(case)[0] for case in source.cases]


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def patients(source: Source) -> list[str]:
    return [case.patient for case in source.cases]


def test_a_series_is_a_volume_in_its_place(tmp_path: Path) -> None:
    expected = write_stack(tmp_path, (7, 10, 13, 16))
    (image,) = volumes(dicom(tmp_path))
    np.testing.assert_array_equal(array(image), expected)
    assert image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_allclose(image.GetSpacing(), (SPACING[1], SPACING[0], 3))
    np.testing.assert_allclose(image.GetOrigin(), (0, 0, 7))


def test_slices_are_ordered_by_place_and_not_by_name(tmp_path: Path) -> None:
    expected = write_stack(tmp_path, (9, 6, 3, 0))
    (image,) = volumes(dicom(tmp_path))
    np.testing.assert_array_equal(array(image), expected[::-1])


def test_a_sagittal_series_keeps_its_direction(tmp_path: Path) -> None:
    sagittal = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    for k in range(4):
        place = [4.0 * k, 0.0, 0.0]
        write_slice(
            tmp_path / f"{k}",
            pixels(k),
            ImagePositionPatient=place,
            ImageOrientationPatient=sagittal,
        )
    (image,) = volumes(dicom(tmp_path))
    point = image.TransformIndexToPhysicalPoint((2, 1, 0))
    last = image.TransformIndexToPhysicalPoint((0, 0, 3))
    normal = np.cross(sagittal[:3], sagittal[3:])
    assert np.dot(np.subtract(last, image.GetOrigin()), normal) == pytest.approx(12)
    np.testing.assert_allclose(
        np.subtract(point, image.GetOrigin()), (0, 2 * SPACING[1], -SPACING[0]), atol=1e-9
    )


def test_one_series_uid_for_all_is_divided_by_patient_and_study(tmp_path: Path) -> None:
    expected = [
        write_stack(
            tmp_path,
            names=f"{k}_{{}}",
            seed=k,
            PatientID=f"P{k // 2}",
            StudyInstanceUID=uid("study", k),
        )
        for k in range(4)
    ]
    found = dicom(tmp_path)
    assert len(found.cases) == 4
    assert len(set(patients(found))) == 2
    for image, one in zip(volumes(found), expected, strict=True):
        np.testing.assert_array_equal(array(image), one)
    assert any("SeriesInstanceUID" in note for note in found.notes)


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_phases_of_one_series_are_volumes_of_their_own_spacing(
    tmp_path: Path, offset: float
) -> None:
    heights = np.arange(4) * 3.0
    one = write_stack(tmp_path, heights, names="a{}", AcquisitionNumber=1)
    two = write_stack(tmp_path, heights + offset, names="b{}", seed=1, AcquisitionNumber=2)
    found = dicom(tmp_path)
    images = volumes(found)
    assert [image.GetSpacing()[2] for image in images] == [3, 3]
    np.testing.assert_array_equal(array(images[0]), one)
    np.testing.assert_array_equal(array(images[1]), two)
    assert any("AcquisitionNumber" in note for note in found.notes)
    assert len(set(patients(found))) == 1


def test_acquisitions_one_above_the_other_stay_one_volume(tmp_path: Path) -> None:
    write_stack(tmp_path, (0, 3, 6), names="a{}", AcquisitionNumber=1)
    write_stack(tmp_path, (9, 12, 15), names="b{}", seed=1, AcquisitionNumber=2)
    (image,) = volumes(dicom(tmp_path))
    assert image.GetSize()[2] == 6


@pytest.mark.parametrize(
    ("tag", "values"),
    [("EchoNumbers", (1, 2)), ("EchoTime", (4.2, 90)), ("DiffusionBValue", (0.0, 800.0))],
)
def test_echoes_and_b_values_are_never_woven(
    tmp_path: Path, tag: str, values: tuple[Any, Any]
) -> None:
    heights = np.arange(3) * 4.0
    write_stack(tmp_path, heights, names="a{}", Modality="MR", **{tag: values[0]})
    write_stack(tmp_path, heights + 2, names="b{}", seed=1, Modality="MR", **{tag: values[1]})
    assert [image.GetSpacing()[2] for image in volumes(dicom(tmp_path))] == [4, 4]


def test_images_at_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    write_stack(tmp_path, names="a{}")
    write_stack(tmp_path, names="b{}", seed=1)
    with refuses("import.no-volume", "2 images lie at 0 mm"):
        dicom(tmp_path)


def test_a_missing_slice_is_named_and_nothing_is_stretched(tmp_path: Path) -> None:
    write_stack(tmp_path / "in", (0, 3, 6, 12, 15))
    said = refused(run(tmp_path / "in", tmp_path / "out"), "import.no-volume", "9 mm", "missing")
    assert "SECRET" not in said
    assert not (tmp_path / "out").exists()


def test_a_bad_series_is_left_out_by_name_among_good_ones(tmp_path: Path) -> None:
    write_stack(tmp_path / "good", SeriesInstanceUID=uid("good"))
    write_stack(tmp_path / "bad", (0, 3, 9, 12), seed=1, SeriesInstanceUID=uid("bad"))
    found = dicom(tmp_path)
    assert len(found.cases) == 1
    left = {one.path.parent.name for one in found.left_out}
    assert left == {"bad"}
    assert "6 mm are missing" in found.left_out[0].why


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_volume_without_its_grid_is_refused(tmp_path: Path, tag: str) -> None:
    write_stack(tmp_path, **{tag: None})
    with refuses("import.no-volume"):
        dicom(tmp_path)


def test_rounded_positions_are_one_distance(tmp_path: Path) -> None:
    write_stack(tmp_path, (0, 1.67, 3.33, 5.0, 6.67))
    (image,) = volumes(dicom(tmp_path))
    assert image.GetSpacing()[2] == pytest.approx(5 / 3, rel=1e-2)


def test_slopes_are_applied_slice_by_slice_in_float(tmp_path: Path) -> None:
    slopes = (1, 0.25, 3, 1.7)
    for k, slope in enumerate(slopes):
        place = [0.0, 0.0, 3.0 * k]
        write_slice(
            tmp_path / f"{k}",
            pixels(k),
            Modality="PT",
            RescaleSlope=slope,
            RescaleIntercept=-5,
            ImagePositionPatient=place,
        )
    (image,) = volumes(dicom(tmp_path))
    assert image.GetPixelID() == sitk.sitkFloat32
    for k, slope in enumerate(slopes):
        np.testing.assert_allclose(array(image)[k], pixels(k) * slope - 5, rtol=1e-6)


def test_a_tilted_gantry_is_set_upright(tmp_path: Path) -> None:
    """A rod that is upright in the patient is upright in the volume."""
    for k in range(5):
        slice_HW = np.zeros((24, COLUMNS), np.int16)
        slice_HW[10 + 2 * k, 3] = 1000
        place = [0.0, -2.0 * k * SPACING[0], 3.0 * k]
        write_slice(tmp_path / f"{k}", slice_HW, ImagePositionPatient=place)
    found = dicom(tmp_path)
    (image,) = volumes(found)
    rod_ZHW = array(image) == 1000
    assert rod_ZHW.sum() == 5
    assert len({tuple(place) for place in np.argwhere(rod_ZHW)[:, 1:].tolist()}) == 1
    row, column = np.argwhere(rod_ZHW)[0, 1:].tolist()
    point = image.TransformIndexToPhysicalPoint((column, row, 0))
    np.testing.assert_allclose(point, (3 * SPACING[1], 10 * SPACING[0], 0), atol=1e-6)
    assert any("tilted" in note for note in found.notes)


def test_slices_shifted_without_order_are_refused(tmp_path: Path) -> None:
    for k, shift in enumerate((0.0, 5.0, 0.0, 5.0)):
        write_slice(tmp_path / f"{k}", pixels(k), ImagePositionPatient=[shift, 0.0, 3.0 * k])
    with refuses("import.no-volume", "shifted"):
        dicom(tmp_path)


def test_scouts_captures_reports_and_other_files_are_left_out_by_name(tmp_path: Path) -> None:
    write_stack(tmp_path)
    across = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    write_slice(tmp_path / "scout", pixels(8), ImageOrientationPatient=across)
    write_slice(tmp_path / "named", pixels(9), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice(tmp_path / "shot", pixels(7), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write_slice(tmp_path / "report", pixels(6), Modality="SR")
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "._IM0").write_bytes(b"\0\5\x16\7")
    found = dicom(tmp_path)
    (image,) = volumes(found)
    assert image.GetSize()[2] == 4
    reasons = {one.path.name: one.why for one in every_left_out(found)}
    assert set(reasons) == {"scout", "named", "shot", "report", "readme.txt", "._IM0"}
    assert "scout" in reasons["scout"]
    assert "localizer" in reasons["named"]
    assert "capture" in reasons["shot"]


def test_a_copy_of_a_slice_is_left_out_and_a_series_over_two_folders_is_one(tmp_path: Path) -> None:
    write_stack(tmp_path / "disc1", (0, 3), SeriesInstanceUID=uid("one"))
    write_stack(tmp_path / "disc2", (6, 9), SeriesInstanceUID=uid("one"))
    (tmp_path / "disc2" / "again").write_bytes((tmp_path / "disc1" / "IM0").read_bytes())
    found = dicom(tmp_path)
    (image,) = volumes(found)
    assert image.GetSize()[2] == 4
    assert [one.path.name for one in found.left_out] == ["again"]


def test_a_slice_cut_short_leaves_its_series_out_by_name(tmp_path: Path) -> None:
    write_stack(tmp_path)
    whole = (tmp_path / "IM2").read_bytes()
    (tmp_path / "IM2").write_bytes(whole[:-20])
    with refuses("import.no-volume", "IM2 ends before its pixels do"):
        dicom(tmp_path)


def test_each_xray_is_a_case_of_its_patient(tmp_path: Path) -> None:
    for k in range(4):
        write_slice(
            tmp_path / f"{k}",
            pixels(k),
            Modality="DX",
            PatientID=f"P{k // 2}",
            SeriesInstanceUID=uid("series", k // 2),
            SOPInstanceUID=uid("x", k),
        )
    found = dicom(tmp_path)
    assert patients(found) == ["patient_0001"] * 2 + ["patient_0002"] * 2
    for k, image in enumerate(volumes(found)):
        np.testing.assert_array_equal(array(image), pixels(k))
        assert image.GetSpacing() == pytest.approx(SPACING[::-1])


def test_an_inverted_xray_is_shown_as_the_others(tmp_path: Path) -> None:
    write_slice(
        tmp_path / "a",
        pixels(1).astype(np.uint16),
        Modality="CR",
        PhotometricInterpretation="MONOCHROME1",
        PixelRepresentation=0,
        BitsStored=12,
        HighBit=11,
    )
    (image,) = volumes(dicom(tmp_path))
    np.testing.assert_array_equal(array(image), 4095 - pixels(1))


@pytest.mark.parametrize("name", ["", "ANONYMOUS", "anonymized", "0000", "Unknown"])
def test_a_patient_id_for_nobody_makes_each_study_a_patient_and_says_so(
    tmp_path: Path, name: str
) -> None:
    for k in range(6):
        write_stack(
            tmp_path / str(k),
            (0, 3),
            seed=k,
            PatientID=name,
            StudyInstanceUID=uid("study", k // 2),
            SeriesInstanceUID=uid("series", k),
        )
    found = dicom(tmp_path)
    assert len(set(patients(found))) == 3
    assert any("identity" in note for note in found.notes)


def test_a_study_that_all_without_an_id_share_does_not_make_them_one_patient(
    tmp_path: Path,
) -> None:
    for k in range(3):
        series = uid("series", k)
        write_stack(tmp_path / str(k), (0, 3), seed=k, PatientID="", SeriesInstanceUID=series)
    found = dicom(tmp_path)
    assert len(set(patients(found))) == 3
    assert any("identity" in note and "folders" in note for note in found.notes)


def test_one_id_for_people_of_different_sex_is_nobodys(tmp_path: Path) -> None:
    for k, sex in enumerate("MF"):
        write_stack(
            tmp_path / str(k),
            (0, 3),
            seed=k,
            PatientID="PAT-17",
            PatientSex=sex,
            StudyInstanceUID=uid("study", k),
            SeriesInstanceUID=uid("series", k),
        )
    assert len(set(patients(dicom(tmp_path)))) == 2


def test_enhanced_files_hold_a_volume_in_one_file(tmp_path: Path) -> None:
    expected = write_stack(tmp_path / "single")
    first = pydicom.dcmread(tmp_path / "single" / "IM0")
    frames = []
    for k in range(4):
        group, place, value = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0.0, 0.0, 3.0 * k]
        value.RescaleSlope, value.RescaleIntercept = k + 1, 0
        group.PlanePositionSequence = [place]
        group.PixelValueTransformationSequence = [value]
        frames.append(group)
    first.PerFrameFunctionalGroupsSequence = frames
    first.NumberOfFrames = 4
    del first.ImagePositionPatient
    first.PixelData = expected.tobytes()
    (tmp_path / "many").mkdir()
    first.save_as(tmp_path / "many" / "enhanced")
    (image,) = volumes(dicom(tmp_path / "many"))
    scaled = expected * np.arange(1, 5)[:, None, None]
    np.testing.assert_array_equal(array(image), scaled)
    assert image.GetSpacing()[2] == 3


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic"),
        ({"SeriesDescription": "3-plane Localizer"}, "scout"),
        ({"RescaleSlope": 0}, "RescaleSlope"),
    ],
)
def test_what_only_looks_like_a_volume_is_left_out(
    tmp_path: Path, tags: dict[str, Any], why: str
) -> None:
    write_stack(tmp_path / "good", SeriesInstanceUID=uid("good"))
    write_stack(tmp_path / "other", seed=1, **tags)
    found = dicom(tmp_path)
    assert len(found.cases) == 1
    assert all(why in one.why for one in found.left_out)
    assert len(found.left_out) == 4


def test_a_slope_that_one_slice_lacks_is_not_made_up(tmp_path: Path) -> None:
    write_stack(tmp_path, RescaleSlope=2, RescaleIntercept=-1024)
    dataset = pydicom.dcmread(tmp_path / "IM1")
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.save_as(tmp_path / "IM1")
    with refuses("import.no-volume", "IM1"):
        dicom(tmp_path)


# ---------------------------------------------------------------- every file is accounted for

KINDS = ("slice", "scout", "text", "cut", "hidden", "nested")


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=6), gap=st.sampled_from([3.0, 7.0]))
def test_every_file_of_a_tree_is_taken_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], gap: float
) -> None:
    root = tmp_path_factory.mktemp("tree")
    write_stack(root / "good", (0, 3, 6))
    write_stack(root / "other", (0, 3, 3 + gap), seed=1, SeriesInstanceUID=uid("other"))
    for number, kind in enumerate(kinds):
        path = root / f"{kind}_{number}"
        if kind == "nested":
            path = root / "a b" / "ü" / f"{number}"
        if kind == "text":
            path.write_text("no image")
        elif kind == "hidden":
            (root / f".{number}").write_bytes(b"\0")
        else:
            write_slice(path, pixels(number), SeriesInstanceUID=uid(number))
            if kind == "cut":
                path.write_bytes(path.read_bytes()[:-9])
    found = dicom(root)
    taken = {path for case in found.cases for path in (*case.images, *case.masks)}
    left = [one.path for one in every_left_out(found)]
    files = {path for path in root.rglob("*") if path.is_file()}
    assert taken | set(left) == files
    assert not taken & set(left)
    assert len(left) == len(set(left))
    assert all(one.why for one in every_left_out(found))
    assert len(found.cases) == (2 if gap == 3 else 1)
