"""Segmentations and contours of DICOM series, as label maps on the grid of their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from pydicom.sr.codedict import codes

from hyfree_ray.cli import main
from hyfree_ray.importers.dicom import dicom
from tests.dicom_files import (
    COLUMNS,
    ROWS,
    SPACING,
    uid,
    write_contours,
    write_slice,
    write_stack,
)
from tests.refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore")


def run(source: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["import", "dicom", str(source), str(out), *options])


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def segment(path: Path, folder: Path, masks: dict[str, np.ndarray]) -> None:
    """Write a SEG with highdicom, as an annotation tool does."""
    images = [pydicom.dcmread(file) for file in sorted(folder.glob("IM*"))]
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.stack(list(masks.values()), axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=uid(path),
        series_number=2,
        sop_instance_uid=uid(path, "sop"),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)


def drawn(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask_ZHW = np.zeros((4, ROWS, COLUMNS), bool)
    for box in boxes:
        mask_ZHW[box] = True
    return mask_ZHW


LIVER = drawn((slice(0, 3), slice(2, 7), slice(1, 4)))
TUMOUR = drawn((slice(1, 3), slice(8, 10), slice(5, 7)))


def test_a_segmentation_made_by_a_library_gives_the_same_voxels(tmp_path: Path) -> None:
    expected = write_stack(tmp_path / "in" / "ct")
    segment(tmp_path / "in" / "seg.dcm", tmp_path / "in" / "ct", {"Tumour": TUMOUR, "Liver": LIVER})
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0, result.output
    labels = json.loads((tmp_path / "out/dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "liver": 1, "tumour": 2}
    label = sitk.ReadImage(str(tmp_path / "out/labelsTr/series_0001.nii.gz"))
    np.testing.assert_array_equal(array(label), LIVER + 2 * TUMOUR)
    image = sitk.ReadImage(str(tmp_path / "out/imagesTr/series_0001_0000.nii.gz"))
    np.testing.assert_array_equal(array(image), expected)
    assert label.GetSpacing() == image.GetSpacing()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


def test_overlapping_structures_are_refused_until_their_order_is_named(tmp_path: Path) -> None:
    write_stack(tmp_path / "in" / "ct")
    inside = drawn((slice(1, 2), slice(3, 5), slice(2, 3)))
    segment(tmp_path / "in" / "seg.dcm", tmp_path / "in" / "ct", {"Tumour": inside, "Liver": LIVER})
    refused(run(tmp_path / "in", tmp_path / "out"), "import.bad-labels", "overlap")
    result = run(tmp_path / "in", tmp_path / "out", "--classes", "liver,tumour")
    assert result.exit_code == 0, result.output
    label = sitk.ReadImage(str(tmp_path / "out/labelsTr/series_0001.nii.gz"))
    np.testing.assert_array_equal(array(label), np.where(inside, 2, LIVER))
    unknown = run(tmp_path / "in", tmp_path / "other", "--classes", "spleen")
    refused(unknown, "import.bad-labels", "liver")


def test_contours_are_drawn_with_their_holes(tmp_path: Path) -> None:
    write_stack(tmp_path / "ct")

    def square(low: float, high: float) -> np.ndarray:
        """A contour on the third slice, through (row, column) in pixels."""
        corners = [(low, low), (low, high), (high, high), (high, low)]
        return np.array([(column * SPACING[1], row * SPACING[0], 6.0) for row, column in corners])

    contours = {"Kidney": [square(0.5, 6.5), square(2.5, 4.5)]}
    write_contours(tmp_path / "rt.dcm", tmp_path / "ct" / "IM2", contours)
    found = dicom(tmp_path)
    label_ZHW = array(found.read_label(found.cases[0]))
    expected = np.zeros((4, ROWS, COLUMNS), np.uint8)
    expected[2, 1:7, 1:7] = 1
    expected[2, 3:5, 3:5] = 0
    np.testing.assert_array_equal(label_ZHW, expected)
    assert found.labels == {"background": 0, "kidney": 1}


SQUARE = np.array([(1.0, 1.0, 3.0), (5.0, 1.0, 3.0), (5.0, 5.0, 3.0), (1.0, 5.0, 3.0)])


def test_points_and_structures_without_contours_are_no_classes(tmp_path: Path) -> None:
    write_stack(tmp_path / "ct")
    drawn = {"Kidney": [SQUARE], "Isocentre": [SQUARE[:1]], "Left empty": []}
    write_contours(tmp_path / "rt.dcm", tmp_path / "ct/IM1", drawn)
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    dataset.save_as(tmp_path / "rt.dcm")
    assert dicom(tmp_path).labels == {"background": 0, "kidney": 1}


@pytest.mark.parametrize("kind", ["open", "beside", "between slices", "damaged"])
def test_contours_that_cannot_be_drawn_are_left_out_by_name(tmp_path: Path, kind: str) -> None:
    write_stack(tmp_path / "ct")
    moved = {"beside": [-90, -90, 0], "between slices": [0, 0, 1.4]}.get(kind, [0, 0, 0])
    write_contours(tmp_path / "rt.dcm", tmp_path / "ct/IM1", {"Kidney": [SQUARE + moved]})
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    if kind == "open":
        contour.ContourGeometricType = "OPEN_PLANAR"
    if kind == "damaged":
        contour.ContourData = list(contour.ContourData)[:-1]
    dataset.save_as(tmp_path / "rt.dcm")
    found = dicom(tmp_path)
    assert not found.cases[0].masks
    assert [one.path.name for one in found.left_out] == ["rt.dcm"]


def test_a_segmentation_of_another_series_is_left_out(tmp_path: Path) -> None:
    write_stack(tmp_path / "gone")
    segment(tmp_path / "seg.dcm", tmp_path / "gone", {"Liver": LIVER})
    (tmp_path / "there").mkdir()
    write_stack(
        tmp_path / "there" / "ct",
        SeriesInstanceUID=uid("other"),
        StudyInstanceUID=uid("other study"),
    )
    (tmp_path / "seg.dcm").rename(tmp_path / "there" / "seg.dcm")
    found = dicom(tmp_path / "there")
    assert not found.cases[0].masks
    assert [one.path.name for one in found.left_out] == ["seg.dcm"]


# ---------------------------------------------------------------- other grids

COARSE = np.random.default_rng(3).random((4, ROWS, COLUMNS)) < 0.5


def drawn_elsewhere(root: Path, mask: np.ndarray, heights: list[float], **tags: Any) -> Path:
    """Write a SEG of a grid of its own, and no images of it; returns the SEG."""
    write_stack(root / "elsewhere", heights, SeriesInstanceUID=uid("elsewhere"), **tags)
    segment(root / "seg.dcm", root / "elsewhere", {"Liver": mask})
    for path in (root / "elsewhere").iterdir():
        path.unlink()
    return root / "seg.dcm"


def label_of(root: Path) -> np.ndarray:
    found = dicom(root)
    assert any("another grid" in note for note in found.notes), found.left_out
    return array(found.read_label(found.cases[0]))


def test_a_segmentation_of_every_second_slice_and_pixel_is_what_the_nearest_is(
    tmp_path: Path,
) -> None:
    """Its first pixel lies half a fine pixel beyond the image's: each covers two by two."""
    fine_ZHW = np.random.default_rng(0).integers(0, 99, (8, 2 * ROWS, 2 * COLUMNS)).astype(np.int16)
    for k, slice_HW in enumerate(fine_ZHW):
        write_slice(tmp_path / "ct" / f"IM{k}", slice_HW, ImagePositionPatient=[0, 0, 1.5 * k])
    drawn_elsewhere(
        tmp_path,
        COARSE,
        [0.75, 3.75, 6.75, 9.75],
        PixelSpacing=[2 * SPACING[0], 2 * SPACING[1]],
    )
    corner = [SPACING[1] / 2, SPACING[0] / 2]
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [*corner, place.ImagePositionPatient[2]]
    dataset.save_as(tmp_path / "seg.dcm")
    expected = COARSE.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(label_of(tmp_path), expected)


def test_a_segmentation_drawn_on_slices_seen_from_the_other_side_is_turned(tmp_path: Path) -> None:
    write_stack(tmp_path / "ct")
    seg = drawn_elsewhere(tmp_path, COARSE, [0, 3, 6, 9])
    dataset = pydicom.dcmread(seg)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [
            (COLUMNS - 1) * SPACING[1],
            *place.ImagePositionPatient[1:],
        ]
    dataset.save_as(seg)
    np.testing.assert_array_equal(label_of(tmp_path), COARSE[:, :, ::-1])


def test_a_segmentation_cut_out_of_its_image_keeps_its_place(tmp_path: Path) -> None:
    write_stack(tmp_path / "ct")
    small = np.ones((2, 4, 3), bool)
    rows, columns = 5, 2
    for k in range(2):
        write_slice(
            tmp_path / "elsewhere" / f"IM{k}",
            np.zeros((4, 3), np.int16),
            SeriesInstanceUID=uid("elsewhere"),
            ImagePositionPatient=[columns * SPACING[1], rows * SPACING[0], 3.0 * k + 3],
        )
    segment(tmp_path / "seg.dcm", tmp_path / "elsewhere", {"Liver": small})
    for path in (tmp_path / "elsewhere").iterdir():
        path.unlink()
    expected = np.zeros((4, ROWS, COLUMNS))
    expected[1:3, 5:9, 2:5] = 1
    np.testing.assert_array_equal(label_of(tmp_path), expected)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"FrameOfReferenceUID": uid("another frame")}, "frame of reference"),
        ({"ImagePositionPatient": [500.0, 500.0, 500.0]}, "none of its frames"),
    ],
)
def test_a_segmentation_that_lies_elsewhere_is_left_out_and_says_why(
    tmp_path: Path, tags: dict[str, Any], why: str
) -> None:
    write_stack(tmp_path / "ct")
    seg = drawn_elsewhere(tmp_path, COARSE, [0, 3, 6, 9], PixelSpacing=[2.0, 2.0])
    dataset = pydicom.dcmread(seg)
    reference = dataset.ReferencedSeriesSequence[0]
    reference.SeriesInstanceUID = uid("series")
    if "FrameOfReferenceUID" in tags:
        dataset.FrameOfReferenceUID = tags["FrameOfReferenceUID"]
    else:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = [x + 500, y, z]
    dataset.save_as(seg)
    found = dicom(tmp_path)
    assert not found.cases[0].masks
    (left,) = (one for one in found.left_out if one.path == seg)
    assert why in left.why


def test_frames_that_lie_on_no_grid_are_left_out(tmp_path: Path) -> None:
    write_stack(tmp_path / "ct")
    seg = drawn_elsewhere(tmp_path, COARSE, [0, 3, 6, 9])
    dataset = pydicom.dcmread(seg)
    place = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = [0.0, 0.0, 4.3]
    dataset.save_as(seg)
    found = dicom(tmp_path)
    assert not found.cases[0].masks
    assert "one grid" in next(one.why for one in found.left_out if one.path == seg)


def test_a_segmentation_of_an_xray_is_its_label(tmp_path: Path) -> None:
    """Neither has a place in the patient; the segmentation names the image."""
    stored = np.random.default_rng(0).integers(0, 4096, (ROWS, COLUMNS)).astype(np.uint16)
    write_slice(
        tmp_path / "IM0",
        stored,
        Modality="DX",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        FrameOfReferenceUID=None,
        PixelRepresentation=0,
    )
    segment(tmp_path / "seg.dcm", tmp_path, {"Lung": COARSE[:1]})
    found = dicom(tmp_path)
    label = array(found.read_label(found.cases[0]))
    np.testing.assert_array_equal(label.reshape(ROWS, COLUMNS), COARSE[0])
