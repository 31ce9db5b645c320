"""Plain folders with what gets into them: edges, inverted masks, links that lead nowhere, pipes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as pil

from hyfree_ray.importers.folder import folder
from hyfree_ray.importers.raw_set import every_left_out, write_raw_set
from hyfree_ray.importers.source import Source
from tests.refusals import refuses

RANDOM = np.random.default_rng(0)


def disc(value: int = 255, *, at: int = 12) -> np.ndarray:
    rows, columns = np.mgrid[:40, :30]
    return np.where((rows - at) ** 2 + (columns - 13) ** 2 < 60, value, 0).astype(np.uint8)


def blurred(mask: np.ndarray) -> np.ndarray:
    """As a mask looks that was resized with interpolation."""
    there = pil.fromarray(mask).resize((19, 27), pil.Resampling.BILINEAR)
    return np.asarray(there.resize((30, 40), pil.Resampling.BILINEAR))


def pairs(root: Path, mask_of: Callable[[int], np.ndarray], ending: str = ".png") -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for k in range(5):
        pil.fromarray(RANDOM.integers(0, 255, (40, 30)).astype(np.uint8)).save(
            root / f"images/x{k}.png"
        )
        pil.fromarray(mask_of(k)).save(root / f"masks/x{k}{ending}")
    return root


def labels(source: Source) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(source.read_label(case)) for case in source.cases]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("bright", [255, 100])
def test_edges_that_interpolation_left_are_no_classes(tmp_path: Path, bright: int) -> None:
    found = folder(pairs(tmp_path / "in", lambda k: blurred(disc(bright, at=10 + k))))
    assert set(found.labels) == {"background", "foreground"}
    for k, label in enumerate(labels(found)):
        drawn = blurred(disc(bright, at=10 + k))
        np.testing.assert_array_equal(label, drawn > drawn.max() / 2)


def test_edges_between_several_classes_are_refused(tmp_path: Path) -> None:
    """What lies between 0 and 200 would be read as the class of 100."""
    two = pairs(tmp_path / "in", lambda k: blurred(disc(100) + disc(200, at=30)))
    with refuses("import.bad-labels", "--classes"):
        folder(two)


def test_small_but_solid_classes_stay_classes(tmp_path: Path) -> None:
    def mask(k: int) -> np.ndarray:
        drawn = disc(100)
        drawn[30:33, 5 + k : 8 + k] = 200
        return drawn

    found = folder(pairs(tmp_path / "in", mask))
    assert [np.unique(label).tolist() for label in labels(found)] == [[0, 1, 2]] * 5


def test_edges_in_colour_are_no_classes(tmp_path: Path) -> None:
    def mask(k: int) -> np.ndarray:
        grey = blurred(disc(at=10 + k))
        return np.stack([0 * grey, grey, 0 * grey], axis=-1)

    found = folder(pairs(tmp_path / "in", mask))
    assert set(found.labels) == {"background", "foreground"}


@pytest.mark.parametrize("inverted", [[0, 1, 2, 3, 4], [2]])
def test_masks_that_cover_most_of_their_images_are_warned_of(
    tmp_path: Path, inverted: list[int]
) -> None:
    def mask(k: int) -> np.ndarray:
        return 255 - disc() if k in inverted else disc()

    look = write_raw_set(folder(pairs(tmp_path / "in", mask)), tmp_path / "out")
    assert [line for line in look.warnings() if "inverted" in line and f"x{inverted[0]}" in line]


def test_edges_of_label_volumes_are_no_classes(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k in range(4):
        pixels = np.stack([blurred(disc(at=10 + k))] * 6)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / f"masks/v{k}.nii.gz"))
        image = RANDOM.integers(0, 999, pixels.shape).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / f"images/v{k}.nii.gz"))
    assert set(folder(tmp_path).labels) == {"background", "foreground"}


# ---------------------------------------------------------------- files


def test_pipes_and_links_that_lead_nowhere_are_left_out_and_nothing_waits(tmp_path: Path) -> None:
    root = pairs(tmp_path / "in", lambda k: disc())
    os.mkfifo(root / "images/pipe.png")
    os.mkfifo(root / "masks/pipe.png")
    (root / "images/gone.png").symlink_to("/nowhere/at/all.png")
    (root / "images/self.png").symlink_to("self.png")
    (root / "round").symlink_to(root)
    found = folder(root)
    assert len(found.cases) == 5
    left = {one.path.name: one.why for one in every_left_out(found)}
    assert set(left) == {"pipe.png", "gone.png", "self.png"}
    assert all("not a file" in why for why in left.values())


def test_a_pipe_among_dicom_files_is_left_out(tmp_path: Path) -> None:
    from hyfree_ray.importers.dicom import dicom
    from tests.dicom_files import write_stack

    write_stack(tmp_path / "ct")
    os.mkfifo(tmp_path / "ct/IM9")
    (tmp_path / "ct/empty").write_bytes(b"")
    found = dicom(tmp_path)
    assert {one.path.name for one in found.left_out} == {"IM9", "empty"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_dicom_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    from hyfree_ray.importers.dicom import dicom
    from tests.dicom_files import write_stack

    write_stack(tmp_path / "ct")
    (tmp_path / "ct/IM3").chmod(0)
    with refuses("import.unreadable", "IM3"):
        dicom(tmp_path)


# ---------------------------------------------------------------- volumes


def volumes(root: Path, affine: np.ndarray, image: np.ndarray | None = None) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    straight = np.diag([-1.0, -1.0, 3.0, 1.0])
    straight[:3, 3] = 4, 5, 6
    drawn = np.zeros((14, 9, 6), np.uint8)
    drawn[2:5, 3:6, 1:4] = 1
    pixels = RANDOM.integers(0, 999, drawn.shape).astype(np.float32) if image is None else image
    for path, array, place in (
        (root / "images/v.nii.gz", pixels, straight),
        (root / "masks/v.nii.gz", drawn, affine @ straight),
    ):
        nib.save(nib.Nifti1Image(array, place), path)  # type: ignore[attr-defined]
    return root


def test_a_mask_volume_that_is_mirrored_by_its_header_is_refused(tmp_path: Path) -> None:
    root = volumes(tmp_path / "in", np.diag([-1.0, 1.0, 1.0, 1.0]))
    with refuses("import.turned", "masks/v.nii.gz"):
        write_raw_set(folder(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_volume_with_values_that_no_network_can_take_is_refused(
    tmp_path: Path, value: float
) -> None:
    pixels = RANDOM.random((14, 9, 6))
    pixels[3, 4, 2] = value
    root = volumes(tmp_path / "in", np.eye(4), pixels)
    with refuses("import.unreadable", "images/v.nii.gz"):
        write_raw_set(folder(root), tmp_path / "out")


@pytest.mark.parametrize("how", ["another folder", "other names"])
def test_a_hospital_without_a_single_mask_is_not_dropped_without_a_word(
    tmp_path: Path, how: str
) -> None:
    pairs(tmp_path / "in/Bergen", lambda k: disc())
    lost = pairs(tmp_path / "in/Aarhus", lambda k: disc())
    if how == "another folder":
        (lost / "masks").rename(lost / "labels")
    else:
        for mask in list((lost / "masks").iterdir()):
            mask.rename(mask.with_name(f"lesion-of-{mask.name}"))
    with refuses("import.no-masks", "Aarhus"):
        folder(tmp_path / "in")
