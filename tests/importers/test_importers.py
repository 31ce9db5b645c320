"""Importers, on small trees of the shape in which each public set is distributed."""

from __future__ import annotations

import csv
import json
import locale
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from hyfree_ray.cli import main
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.importers import IMPORTERS
from hyfree_ray.importers.polyp import CVC_LAST_FRAMES
from tests.refusals import refused

SHAPE = (28, 19)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(path: Path, pixels: np.ndarray, *, spacing: tuple[float, ...] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3 and spacing is None)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def pixels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def picture(number: int, *, rgb: bool = False) -> np.ndarray:
    shape = (*SHAPE, 3) if rgb else SHAPE
    return np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)


def mask(number: int) -> np.ndarray:
    label_HW = np.zeros(SHAPE, np.uint8)
    label_HW[2 : 5 + number % 4, 3:8] = 255
    return label_HW


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "sites.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def imported(kind: str, source: Path, out: Path) -> Path:
    result = call("import", kind, source, out)
    assert result.exit_code == 0, result.output
    return out


def is_refused(kind: str, source: Path, out: Path, code: str, *names: str) -> None:
    result = call("import", kind, source, out)
    refused(result, code, *names)
    assert len(result.output.splitlines()) == 1
    assert [path.name for path in out.parent.iterdir() if "out" in path.name] in ([], [out.name])


# ---------------------------------------------------------------- each set


def qata(root: Path) -> Path:
    names = [f"sub-S0{k // 2}_ses-E{k}_run-1_bp-chest_vp-ap_dx" for k in range(12)]
    names += [f"covid_{k}" for k in range(3)]
    for number, name in enumerate(names):
        part = root / ("Test Set" if number % 5 == 0 else "Train Set")
        write(part / "Images" / f"{name}.png", picture(number))
        write(part / "Ground-truths" / f"mask_{name}.png", mask(number))
    write(root / "Train Set" / "Images" / "covid_9.png", picture(99))
    return root


def test_qata_is_divided_by_the_subject_in_the_name(tmp_path: Path) -> None:
    out = imported("qata", qata(tmp_path / "QaTa-COV19-v2"), tmp_path / "out")
    rows = table(out)
    assert len(rows) == 15
    assert len({row["patient"] for row in rows.values()}) == 6 + 3
    assert rows["sub-S02_ses-E5_run-1_bp-chest_vp-ap_dx"]["patient"] == "sub-S02"
    assert rows["covid_1"]["patient"] == "covid_1"
    assert {row["set"] for row in rows.values()} == {"Train Set", "Test Set"}
    cohort = read_cohort(out)
    assert list(cohort.sites) == ["QaTa"]
    np.testing.assert_array_equal(pixels_of(out / "imagesTr/covid_0_0000.png"), picture(12))
    np.testing.assert_array_equal(pixels_of(out / "labelsTr/covid_0.png"), mask(12) // 255)


def polyp(root: Path, ending: str = "tif") -> Path:
    for number in range(6):
        write(root / f"segmented-images/images/k{number}.jpg", picture(number, rgb=True))
        write(root / f"segmented-images/masks/k{number}.jpg", np.stack([mask(number)] * 3, -1))
    for number in (1, 25, 26, 180, 300, 612):
        frame = root / "CVC-ClinicDB"
        write(frame / f"Original/{number}.{ending}", picture(number, rgb=True))
        write(frame / f"Ground Truth/{number}.{ending}", mask(number))
    return root


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_polyp_is_two_hospitals_and_frames_of_a_sequence_stay_together(
    tmp_path: Path, ending: str
) -> None:
    out = imported("polyp", polyp(tmp_path / "in", ending), tmp_path / "out")
    rows = table(out)
    assert rows["cvc_0001"]["patient"] == rows["cvc_0025"]["patient"] == "cvc_sequence01"
    assert rows["cvc_0026"]["patient"] == "cvc_sequence02"
    assert rows["cvc_0612"]["patient"] == "cvc_sequence29"
    cohort = read_cohort(out)
    assert {site: len(cases) for site, cases in cohort.sites.items()} == {"CVC": 6, "Kvasir": 6}
    assert cohort.channel_names == ("R", "G", "B")
    np.testing.assert_array_equal(
        pixels_of(out / "imagesTr/cvc_0300_0000.png"), picture(300, rgb=True)
    )
    # JPEG leaves grey between black and white in a mask: it is cut in the middle.
    label_HW = pixels_of(out / "labelsTr/kvasir_k3.png")
    assert (label_HW != mask(3) // 255).mean() < 0.05


def test_the_sequences_of_cvc_are_29_and_end_with_the_last_frame() -> None:
    assert len(CVC_LAST_FRAMES) == 29
    assert list(CVC_LAST_FRAMES) == sorted(set(CVC_LAST_FRAMES))
    assert CVC_LAST_FRAMES[-1] == 612


def lung(root: Path) -> Path:
    for number in range(1, 7):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        write(root / "MontgomerySet/CXR_png" / name, picture(number))
        left, right = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        left[3:9, :3], right[3:9, 6:] = 255, 255
        write(root / "MontgomerySet/ManualMask/leftMask" / name, left)
        write(root / "MontgomerySet/ManualMask/rightMask" / name, right)
        stem = f"CHNCXR_{number:04d}_0"
        write(root / f"ChinaSet_AllFiles/CXR_png/{stem}.png", picture(50 + number, rgb=True))
        if number < 6:
            write(root / f"mask/{stem}_mask.png", mask(number))
    return root


def test_lung_joins_both_lungs_and_leaves_out_what_has_no_mask(tmp_path: Path) -> None:
    result = call("import", "lung", lung(tmp_path / "in"), tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "left out: " in result.output
    assert "CHNCXR_0006_0.png: no mask of its lungs" in result.output
    assert "Montgomery: 6 cases of 6 patients" in result.output
    rows = table(tmp_path / "out")
    assert rows["montgomery_0003"]["finding"] == "tuberculosis"
    assert rows["shenzhen_0002"]["finding"] == "normal"
    cohort = read_cohort(tmp_path / "out")
    assert {site: len(cases) for site, cases in cohort.sites.items()} == {
        "Montgomery": 6,
        "Shenzhen": 5,
    }
    label_HW = pixels_of(tmp_path / "out/labelsTr/montgomery_0001.png")
    assert label_HW[4].tolist() == [1] * 3 + [0] * 3 + [1] * 13


def brats(root: Path, year: int) -> Path:
    mapping = ["Grade,BraTS_2017_subject_ID,BraTS_2020_subject_ID"]
    for number in range(10):
        name = f"BraTS20_Training_{number:03d}" if year == 2020 else f"BraTS2021_{number:05d}"
        rng = np.random.default_rng(number)
        for sequence in ("t1", "t1ce", "t2", "flair"):
            pixels = rng.integers(0, 900, (6, 28, 19)).astype(np.int16)
            write(root / name / f"{name}_{sequence}.nii.gz", pixels, spacing=(1, 1, 1.5))
        seg = np.zeros((6, 28, 19), np.uint8)
        seg[1:5, 2:9, 2:8], seg[2:4, 3:8, 3:7], seg[3, 4:6, 4:6] = 2, 1, 4
        write(root / name / f"{name}_seg.nii.gz", seg, spacing=(1, 1, 1.5))
        mapping.append(f"HGG,Brats17_{'CBICA' if number < 5 else 'TCIA02'}_{number}_1,{name}")
    if year == 2020:
        (root / "name_mapping.csv").write_text("\n".join(mapping))
    return root


@pytest.mark.parametrize("year", [2020, 2021])
def test_brats_is_four_channels_and_regions_at_the_institutions_that_are_known(
    tmp_path: Path, year: int
) -> None:
    out = imported("brats", brats(tmp_path / "in", year), tmp_path / "out")
    cohort = read_cohort(out)
    assert list(cohort.sites) == (["CBICA", "TCIA02"] if year == 2020 else ["BraTS2021"])
    assert cohort.channel_names == ("T1", "T1ce", "T2", "FLAIR")
    assert cohort.labels["core"] == [2, 3]
    case = next(iter(cohort.sites.values()))[0]
    assert len(case.images) == 4
    assert case.shape == (6, 28, 19)
    label_ZHW = pixels_of(out / case.label)
    assert (label_ZHW[1, 2, 2], label_ZHW[2, 3, 3], label_ZHW[3, 4, 4]) == (1, 2, 3)
    assert sitk.ReadImage(str(out / case.label)).GetSpacing() == (1, 1, 1.5)


def test_a_plain_folder_is_one_site_and_folders_of_folders_are_several(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / f"in/images/x{number}.png", picture(number))
        write(tmp_path / f"in/masks/x{number}_mask.png", mask(number))
        for site in ("a", "b"):
            seed = number + 10 * ord(site)
            write(tmp_path / f"many/{site}/images/x{number}.bmp", picture(seed, rgb=True))
            write(tmp_path / f"many/{site}/masks/x{number}.bmp", mask(number))
    one = read_cohort(imported("folder", tmp_path / "in", tmp_path / "out1"))
    assert {site: len(cases) for site, cases in one.sites.items()} == {"in": 5}
    many = read_cohort(imported("folder", tmp_path / "many", tmp_path / "out2"))
    assert list(many.sites) == ["a", "b"]
    assert many.channel_names == ("R", "G", "B")


def test_a_folder_keeps_the_sixteen_bits_of_its_images_and_reads_its_masks_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve bits are often stored in sixteen: cut to eight, four would be left of them."""
    for number, highest in enumerate((1, 255, 4095, 65535, 1)):
        pixels = np.random.default_rng(number).integers(0, 4096, SHAPE).astype(np.uint16)
        write(tmp_path / f"in/images/x{number}.png", pixels)
        write(tmp_path / f"in/masks/x{number}.png", (mask(number) > 0).astype(np.uint16) * highest)
    monkeypatch.chdir(tmp_path / "in")
    out = imported("folder", Path(), tmp_path / "out")
    cohort = read_cohort(out)
    for number, case in enumerate(cohort.sites["in"]):
        source = tmp_path / f"in/images/x{number}.png"
        np.testing.assert_array_equal(pixels_of(out / case.images[0]), pixels_of(source))
        np.testing.assert_array_equal(pixels_of(out / case.label), mask(number) > 0)


def test_a_folder_of_volumes_keeps_values_and_spacing(tmp_path: Path) -> None:
    for number in range(5):
        pixels = np.random.default_rng(number).normal(0, 300, (4, 28, 19)).astype(np.float32)
        label = np.zeros((4, 28, 19), np.int16)
        label[1, 3:6, 2:5], label[2, 3:6, 2:5] = 1, 2
        write(tmp_path / f"in/images/v{number}.nrrd", pixels, spacing=(1, 2, 3))
        write(tmp_path / f"in/masks/v{number}.nrrd", label, spacing=(1, 2, 3))
    cohort = read_cohort(imported("folder", tmp_path / "in", tmp_path / "out"))
    assert cohort.labels == {"background": 0, "label 1": 1, "label 2": 2}
    assert cohort.sites["in"][0].spacing == (3, 2, 1)


# ---------------------------------------------------------------- DICOM


def dicom_series(folder: Path, uid: str, patient: str, *, low: int) -> np.ndarray:
    """A CT series of seven slices of 10 x 8 pixels, written slice by slice in any order."""
    folder.mkdir(parents=True)
    before = locale.setlocale(locale.LC_ALL)  # SimpleITK leaves another one when it writes DICOM
    pixels = np.random.default_rng(low + 1000).integers(low, low + 500, (7, 10, 8)).astype(np.int16)
    for k in np.random.default_rng(1).permutation(7):
        image: Any = sitk.GetImageFromArray(pixels[k : k + 1])
        image.SetSpacing((0.8, 0.9, 2.5))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{k + 1}",
            "0008|0060": "CT",
            "0010|0010": f"Name^{patient}",
            "0010|0020": patient,
            "0018|0050": "2.5",
            "0020|000d": f"{uid}.500",
            "0020|000e": uid,
            "0020|0013": str(k),
            "0020|0032": f"0\\0\\{2.5 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|0030": "0.9\\0.8",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer: Any = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"IM{k:04d}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)
    return pixels


def test_dicom_series_become_volumes_and_names_of_patients_stay_behind(tmp_path: Path) -> None:
    source = tmp_path / "in"
    expected = [
        dicom_series(source / "a" / "one", "1.2.3.1", "SECRET-7", low=-1000),
        dicom_series(source / "a" / "two", "1.2.3.2", "SECRET-7", low=0),
        dicom_series(source / "b", "1.2.3.3", "SECRET-8", low=50),
    ]
    out = imported("dicom", source, tmp_path / "out")
    rows = table(out)
    assert [row["patient"] for row in rows.values()] == ["patient_0001"] * 2 + ["patient_0002"]
    for name, pixels in zip(rows, expected, strict=True):
        image = sitk.ReadImage(str(out / f"imagesTr/{name}_0000.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), pixels)
        np.testing.assert_allclose(image.GetSpacing(), (0.8, 0.9, 2.5), rtol=1e-5)
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    for path in out.rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("kind", sorted(IMPORTERS))
def test_a_folder_without_the_set_is_refused_with_what_was_expected(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "in").mkdir()
    is_refused(kind, tmp_path / "in", tmp_path / "out", "import.nothing-found", "in: ")
    is_refused(kind, tmp_path / "nowhere", tmp_path / "out", "import.not-found", "nowhere: ")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    is_refused("qata", qata(tmp_path / "in"), tmp_path / "out", "output.not-empty", "out")


def test_a_broken_file_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    source = qata(tmp_path / "in")
    (source / "Train Set" / "Images" / "covid_2.png").write_bytes(b"no image")
    is_refused("qata", source, tmp_path / "out", "import.unreadable", "covid_2.png: ")
    write(source / "Train Set" / "Images" / "covid_2.png", picture(3)[:-1])
    is_refused("qata", source, tmp_path / "out", "import.size-differs", "(19, 28)", "(19, 27)")
    assert not (tmp_path / "out").exists()


def test_a_table_of_brats_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "name_mapping.csv").write_bytes(b"\xff\xfe\0,")
    out = tmp_path / "out"
    is_refused("brats", tmp_path / "in", out, "import.unreadable", "name_mapping.csv: ")


def test_names_that_would_be_one_are_refused(tmp_path: Path) -> None:
    source = qata(tmp_path / "in")
    for name in ("a b", "a_b"):
        write(source / f"Train Set/Images/{name}.png", picture(1))
        write(source / f"Train Set/Ground-truths/mask_{name}.png", mask(1))
    is_refused("qata", source, tmp_path / "out", "import.same-name", "a_b")
