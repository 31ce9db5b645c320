"""Case 93: labels that were moved are seen from a release alone, and honest ones pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from hyfree_ray.border.label_shift import TOLERANCE, label_shift
from tests.conftest import REAL_DATA

Pairs = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

SHIFTS = ((4, 0), (0, -4), (5, 5), (-7, 2), (0, 12))


def read(folder: Path, files: list[str], height: int, width: int) -> Pairs:
    """images_NCHW and labels_NHW of named cases, on one grid."""
    images, labels = [], []
    for name in files:
        for part, found, kind in (
            ("imagesTr", images, sitk.sitkLinear),
            ("labelsTr", labels, sitk.sitkNearestNeighbor),
        ):
            (path,) = folder.joinpath(part).glob(f"{name}[._]*")
            one = sitk.ReadImage(str(path))
            grid = sitk.Image(width, height, one.GetPixelID())
            spaced = zip(one.GetSize(), one.GetSpacing(), (width, height), strict=True)
            grid.SetSpacing([size * spacing / side for size, spacing, side in spaced])
            found.append(sitk.GetArrayFromImage(sitk.Resample(one, grid, sitk.Transform(), kind)))
    images_NHW = np.stack(images).astype(np.float32)
    low, high = np.percentile(images_NHW, (0.5, 99.5))
    stored_NHW = np.clip((images_NHW - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return stored_NHW[:, None], np.stack(labels).astype(np.uint8)


def moved(labels_NHW: npt.NDArray[np.uint8], down: int, right: int) -> npt.NDArray[np.uint8]:
    height, width = labels_NHW.shape[1:]
    there = np.zeros_like(labels_NHW)
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - down >= 0) & (rows - down < height)
    inside &= (columns - right >= 0) & (columns - right < width)
    there[:, inside] = labels_NHW[:, (rows - down)[inside], (columns - right)[inside]]
    return there


@pytest.fixture(scope="module")
def phantom(phantom_folder: Path) -> Pairs:
    files = sorted((phantom_folder / "labelsTr").iterdir())
    names = [file.name.split(".")[0] for file in files]
    return read(phantom_folder, names, 56, 64)


@pytest.fixture(scope="module")
def lung() -> Pairs:
    folder = REAL_DATA / "Dataset301_LungCXR"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here; set HYFREE_DATA to the folder that holds it")
    files = sorted((folder / "labelsTr").glob("shenzhen_*"))[:30]
    return read(folder, [file.stem for file in files], 64, 60)


@pytest.mark.parametrize("kind", ["phantom", "lung"])
def test_shifted_labels_are_flagged_with_the_way_back(
    kind: str, request: pytest.FixtureRequest
) -> None:
    images_NCHW, labels_NHW = request.getfixturevalue(kind)
    honest = label_shift(images_NCHW, labels_NHW)
    assert honest.label is not None
    assert not honest.flagged
    for down, right in SHIFTS:
        found = label_shift(images_NCHW, moved(labels_NHW, down, right))
        assert found.flagged, (down, right)
        assert np.hypot(found.down + down, found.right + right) <= TOLERANCE


@pytest.mark.parametrize("kind", ["phantom", "lung"])
def test_few_honest_images_are_not_flagged(kind: str, request: pytest.FixtureRequest) -> None:
    """The rate of false alarms: of forty sets of eight images, none."""
    images_NCHW, labels_NHW = request.getfixturevalue(kind)
    rng = np.random.default_rng(0)
    for _ in range(40):
        few = rng.permutation(len(images_NCHW))[:8]
        assert not label_shift(images_NCHW[few], labels_NHW[few]).flagged


def test_labels_that_have_nothing_to_do_with_their_images_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    images_NCHW = rng.integers(0, 256, (30, 2, 40, 28), np.uint8)
    labels_NHW = np.zeros((30, 40, 28), np.uint8)
    labels_NHW[:, 10:20, 8:18] = 1
    assert not label_shift(images_NCHW, labels_NHW).flagged
    blank = label_shift(images_NCHW, np.zeros_like(labels_NHW))
    assert (blank.label, blank.flagged) == (None, False)
    assert label_shift(images_NCHW, np.ones_like(labels_NHW)).label is None
    assert label_shift(images_NCHW[:, :, :3, :3], labels_NHW[:, 9:12, 8:11]).label is None
    flat = label_shift(np.full_like(images_NCHW, 7), labels_NHW)
    assert (flat.label, flat.flagged) == (None, False)


def test_a_structure_in_the_second_channel_alone_tells() -> None:
    rng = np.random.default_rng(2)
    images_NCHW = rng.integers(0, 60, (12, 2, 40, 28), np.uint8)
    labels_NHW = np.zeros((12, 40, 28), np.uint8)
    for row in range(12):
        labels_NHW[row, 6 + row : 26, 5 : 12 + row // 2] = 1
    images_NCHW[:, 1] += 90 * (1 - labels_NHW)  # darker than what is around it
    assert not label_shift(images_NCHW, labels_NHW).flagged
    found = label_shift(images_NCHW, moved(labels_NHW, -3, 2))
    assert found.flagged
    assert (found.down, found.right) == (3, -2)
    assert found.describe().endswith("3 pixels down and 2 pixels left")
