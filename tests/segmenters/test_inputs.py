"""Folders to segment: what is no image is left out, what does not fit the model is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from hyfree_ray.segmenters.nnunet.inputs import cases_to_predict
from tests.refusals import refuses

TWO = {"channel_names": {"0": "T1", "1": "T2"}}
ONE = {"channel_names": {"0": "X-ray"}}
RGB = {"channel_names": {"0": "R", "1": "G", "2": "B"}}


def write(path: Path, shape: tuple[int, ...] = (4, 12, 9), *, rgb: bool = False) -> None:
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, shape).astype(np.uint8)
    image: Any = sitk.GetImageFromArray(pixels, isVector=rgb)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for case in ("a", "b"):
        for channel in range(2):
            write(tmp_path / f"{case}_{channel:04d}.nii.gz")
    return tmp_path


def test_sidecars_tables_and_resource_forks_are_no_images(images: Path) -> None:
    (images / "a_0000.json").write_text("{}")
    (images / "b_0000.bval").write_text("0")
    (images / "list.csv").write_text("x")
    (images / "._a_0000.nii.gz").write_bytes(b"\0\5\x16\7")
    (images / ".DS_Store").write_bytes(b"x")
    ending, cases = cases_to_predict(images, TWO)
    assert ending == ".nii.gz"
    assert {case: [file.name for file in files] for case, files in cases.items()} == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }


def test_a_broken_file_is_named(images: Path) -> None:
    (images / "b_0001.nii.gz").write_bytes(b"no image")
    with refuses("data.unreadable", "b_0001.nii.gz"):
        cases_to_predict(images, TWO)


def test_a_file_cut_short_is_named(images: Path) -> None:
    path = images / "b_0001.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with refuses("data.cut-short", "b_0001.nii.gz"):
        cases_to_predict(images, TWO)


def test_a_missing_channel_is_named_with_what_the_model_wants(images: Path) -> None:
    (images / "b_0001.nii.gz").unlink()
    with refuses("data.channels", "case b", "T1, T2"):
        cases_to_predict(images, TWO)


def test_a_case_whose_first_channel_is_missing_is_not_dropped(images: Path) -> None:
    (images / "b_0000.nii.gz").unlink()
    with refuses("data.channels", "case b"):
        cases_to_predict(images, TWO)


def test_channels_of_other_sizes_are_named(images: Path) -> None:
    write(images / "b_0001.nii.gz", (4, 12, 10))
    with refuses("data.size-differs", "b_0001.nii.gz"):
        cases_to_predict(images, TWO)


def test_colour_for_a_grey_model_and_grey_for_a_colour_model_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a_0000.png", (12, 9, 3), rgb=True)
    assert len(cases_to_predict(tmp_path, RGB)[1]) == 1
    with refuses("data.channels", "a_0000.png", "X-ray"):
        cases_to_predict(tmp_path, ONE)
    write(tmp_path / "a_0000.png", (12, 9))
    assert len(cases_to_predict(tmp_path, ONE)[1]) == 1
    with refuses("data.channels", "R, G, B"):
        cases_to_predict(tmp_path, RGB)


@pytest.mark.parametrize("name", ["a_0000.jpg", "a_0000.txt", "a.nii.gz", "a_0000.dcm"])
def test_what_nnunet_does_not_read_is_named_with_what_it_reads(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with refuses("data.unknown-format", name, ".nii.gz"):
        cases_to_predict(tmp_path, ONE)


@pytest.mark.parametrize("name", ["c_0000.txt", "c.nii.gz", "c_0000.jpg", "a_0000.jpg", "c.dcm"])
def test_what_looks_like_an_image_is_not_dropped(images: Path, name: str) -> None:
    (images / name).write_bytes(b"x")
    with refuses("data.unknown-format", name, "T1, T2"):
        cases_to_predict(images, TWO)


def test_two_formats_and_none_are_refused(tmp_path: Path) -> None:
    with refuses("data.no-cases"):
        cases_to_predict(tmp_path / "nowhere", ONE)
    with refuses("data.no-cases"):
        cases_to_predict(tmp_path, ONE)
    write(tmp_path / "a_0000.png", (12, 9))
    write(tmp_path / "b_0000.nii.gz")
    with refuses("data.unknown-format", ".png", ".nii.gz"):
        cases_to_predict(tmp_path, ONE)
