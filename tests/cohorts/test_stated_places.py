"""Headers that state nothing, too much, or against each other: told or refused, never assumed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hyfree_ray.cohorts.cohort import survey
from tests.raw_data import make

SHAPE = (12, 26, 17)
"""Along z, y and x."""
STRAIGHT = np.diag([-1.0, 1.0, 3.0, 1.0])
STRAIGHT[:3, 3] = 5, -7, 9


def write(path: Path, pixels: np.ndarray, affine: np.ndarray = STRAIGHT) -> None:
    nib.save(nib.Nifti1Image(pixels, affine), path)  # type: ignore[attr-defined]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A good data set of volumes."""
    root, names = make(tmp_path, ending=".nii.gz")
    random = np.random.default_rng(0)
    for name in names:
        label = np.zeros(SHAPE[::-1], np.uint8)
        label[2:9, 3:20, 4:8] = 1
        write(root / f"labelsTr/{name}.nii.gz", label)
        image = random.integers(0, 999, SHAPE[::-1]).astype(np.int16)
        write(root / f"imagesTr/{name}_0000.nii.gz", image)
    return root


def first(root: Path, folder: str) -> Path:
    return sorted((root / folder).iterdir())[0]


def codes(root: Path, *, fatal: bool) -> set[str]:
    found = {problem.code for problem in survey(root).problems if problem.fatal == fatal}
    return found - {"data.label-share"}


def change(path: Path, offset: int, form: str, *values: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def test_a_data_set_of_volumes_is_good(root: Path) -> None:
    assert survey(root).cohort is not None
    assert codes(root, fatal=False) == set()


MIRRORED = STRAIGHT * [[-1], [1], [1], [1]]
TURNED = STRAIGHT[[1, 0, 2, 3]]


@pytest.mark.parametrize("affine", [MIRRORED, TURNED])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_mask_that_is_mirrored_or_turned_by_its_header_is_refused(
    root: Path, affine: np.ndarray, reader: str
) -> None:
    """Its voxels are paired with the image's by their order alone: left would be right."""
    described = (root / "dataset.json").read_text()
    named = f'{{"overwrite_image_reader_writer": "{reader}", '
    (root / "dataset.json").write_text(described.replace("{", named, 1))
    path = first(root, "labelsTr")
    image: Any = nib.load(path)  # type: ignore[attr-defined]
    write(path, np.asarray(image.dataobj), affine)
    assert codes(root, fatal=True) <= {"data.turned", "data.spacing-differs"}
    assert "data.turned" in codes(root, fatal=True) or affine is TURNED


def test_a_mask_saved_without_a_place_is_noted(root: Path) -> None:
    path = first(root, "labelsTr")
    image: Any = nib.load(path)  # type: ignore[attr-defined]
    write(path, np.asarray(image.dataobj), np.diag([1.0, 1.0, 3.0, 1.0]))
    assert codes(root, fatal=True) == set()
    assert codes(root, fatal=False) == {"data.place"}


def test_two_forms_that_contradict_each_other_are_noted(root: Path) -> None:
    path = first(root, "labelsTr")
    image: Any = nib.load(path)  # type: ignore[attr-defined]
    image.set_sform(STRAIGHT, 1)
    image.set_qform(MIRRORED, 1)
    pixels = np.asarray(image.dataobj)
    saved: Any = nib.Nifti1Image(pixels, None, image.header)  # type: ignore[attr-defined]
    nib.save(saved, path)  # type: ignore[attr-defined]
    assert "data.reader-says" in codes(root, fatal=False)


@pytest.mark.parametrize("step", [0.0, float("nan"), float("inf")])
def test_a_spacing_that_is_not_stated_is_not_made_up(root: Path, step: float) -> None:
    change(first(root, "imagesTr"), 88, "<f", step)
    assert codes(root, fatal=True) & {"data.no-spacing", "data.unreadable"}


def test_a_negative_spacing_is_noted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(first(root, "imagesTr"), 88, "<f", -3.0)
    assert "data.reader-says" in codes(root, fatal=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["plain", "twice packed", "empty", "a web page", "NIfTI-2"])
def test_what_its_name_does_not_say_is_refused_without_a_word_of_libraries(
    root: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = first(root, "imagesTr")
    content = path.read_bytes()
    if kind == "NIfTI-2":
        image: Any = nib.load(path)  # type: ignore[attr-defined]
        pixels = np.asarray(image.dataobj)
        nib.save(nib.Nifti2Image(pixels, STRAIGHT), path)  # type: ignore[attr-defined]
    else:
        path.write_bytes(
            {
                "plain": gzip.decompress(content),
                "twice packed": gzip.compress(content),
                "empty": b"",
                "a web page": gzip.compress(b"<html>" + bytes(500)),
            }[kind]
        )
    (problem,) = (one for one in survey(root).problems if one.fatal)
    assert problem.code == "data.unreadable"
    assert capfd.readouterr().err == ""


def test_complex_pixels_are_refused(root: Path) -> None:
    write(first(root, "imagesTr"), np.full(SHAPE[::-1], 3 + 4j, np.complex64))
    assert codes(root, fatal=True) == {"data.unreadable"}


def test_values_beyond_float32_are_not_finite(root: Path) -> None:
    write(first(root, "imagesTr"), np.random.default_rng(1).random(SHAPE[::-1]) * 1e300)
    assert codes(root, fatal=True) == {"data.not-finite"}


def test_an_image_on_another_scale_than_its_sites_is_noted(root: Path) -> None:
    """A generator would see it flat: all images of a site are on one scale."""
    path = first(root, "imagesTr")
    image: Any = nib.load(path)  # type: ignore[attr-defined]
    write(path, (np.asarray(image.dataobj) / 999).astype(np.float32))
    assert codes(root, fatal=False) == {"data.intensity-outlier"}


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_table_in_utf_16_that_does_not_say_so_is_named_as_such(root: Path, encoding: str) -> None:
    table = root / "sites.csv"
    table.write_bytes(table.read_text().encode(encoding))
    assert "data.bad-text" in codes(root, fatal=True)


@pytest.mark.parametrize("inside", ["\u200b", "\ufeff", "\u00ad", "\u200e"])
def test_a_patient_is_one_also_with_characters_that_nobody_sees(root: Path, inside: str) -> None:
    table = root / "sites.csv"
    lines = table.read_text().splitlines()
    case, site, patient = lines[-1].split(",")
    other = lines[1].split(",")
    lines[1] = ",".join([other[0], site, f"{patient[:2]}{inside}{patient[2:]}"])
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert "data.alike-ids" in codes(root, fatal=True), (case, patient)


def test_a_line_break_inside_a_cell_does_not_join_two_ids(root: Path) -> None:
    table = root / "sites.csv"
    lines = table.read_text().splitlines()
    case, site, patient = lines[-1].split(",")
    other = lines[-2].split(",")
    lines[-2] = f'{other[0]},{site},"{patient[:2]}\n{patient[2:]}"'
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert "data.alike-ids" in codes(root, fatal=True), case
