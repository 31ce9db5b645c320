"""The generator's view of images."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.generators.view import (
    PERCENTILES,
    GeneratorView,
    RawSlice,
    fit_into_patch,
    fit_mask_into_patch,
    write_view,
)
from tests.refusals import refuses

PATCH = (48, 32)


def slices(count: int, channels: int = 2, size: tuple[int, int] = (96, 60)) -> list[tuple]:
    rng = np.random.default_rng(0)
    images = rng.normal(100, 20, (count, channels, *size)).astype(np.float32)
    return [(image, (1.0, 1.0)) for image in images]


def written(raw: list[tuple], training: list[bool], **changes: Any) -> GeneratorView:
    """A view, written and read again; each slice is another patient's."""
    some = (
        RawSlice(image_CHW=image, spacing=spacing, patient=index, training=training[index])
        for index, (image, spacing) in enumerate(raw)
    )
    arguments = {"patch": PATCH, "target_spacing": (2.0, 2.0), "site": "site-1", **changes}
    with tempfile.TemporaryDirectory() as folder:
        write_view(Path(folder) / "view.npz", some, **arguments)
        assert [file.name for file in Path(folder).iterdir()] == ["view.npz"]
        return GeneratorView.load(Path(folder) / "view.npz")


def view(count: int = 6) -> GeneratorView:
    return written(slices(count), [True] * (count - 2) + [False] * 2)


def test_images_fill_the_patch_in_minus_one_to_one() -> None:
    found = view()
    assert found.images_NCHW.shape == (6, 2, *PATCH)
    assert found.images_NCHW.dtype == np.float32
    assert found.images_NCHW.min() >= -1
    assert found.images_NCHW.max() <= 1


def test_a_tall_image_stays_tall() -> None:
    """The reference handed (height, width) to a function of (width, height)."""
    image_CHW = np.zeros((1, 90, 30), np.float32)
    image_CHW[:, :, 10:20] = 1  # a vertical bar
    placed_CHW, box, _ = fit_into_patch(image_CHW, (1.0, 1.0), (45, 45), 2.0)
    assert box == (slice(0, 45), slice(15, 30))
    column_W = placed_CHW[0].mean(axis=0)
    assert column_W[20:25].mean() > 0.8
    assert placed_CHW[0].mean(axis=1).std() < 1e-3


def test_a_slice_larger_than_the_patch_is_shrunk_alike_on_both_axes() -> None:
    _, box, spacing = fit_into_patch(np.ones((1, 200, 100)), (1.0, 1.0), (50, 50), 2.0)
    assert [side.stop - side.start for side in box] == [50, 25]
    assert spacing == (4.0, 4.0)


def test_anisotropic_pixels_get_their_true_proportions() -> None:
    _, box, _ = fit_into_patch(np.ones((1, 40, 40)), (2.0, 1.0), (64, 64), 1.0)
    assert [side.stop - side.start for side in box] == [64, 32]


def test_units_come_back() -> None:
    raw = slices(6)
    found = view()
    physical_NCHW = found.physical(found.images_NCHW)
    pixels = np.concatenate([image.ravel() for image, _ in raw])
    assert abs(physical_NCHW[:, :, :, 2:-2].mean() - pixels.mean()) < 2
    assert physical_NCHW.min() >= found.low_C.min() - 1e-3


def test_one_map_for_all_images_keeps_their_differences_in_brightness() -> None:
    raw = [(image + 50 * k, spacing) for k, (image, spacing) in enumerate(slices(5))]
    found = written(raw, [True] * 5)
    means = found.images_NCHW[:, 0, :, 2:-2].mean(axis=(1, 2))
    assert (np.diff(means) > 0.1).all()


def test_the_map_is_made_from_training_images_only() -> None:
    raw = slices(6)
    bright = [*raw[:-1], (raw[-1][0] + 1e6, (1.0, 1.0))]
    training = [True] * 5 + [False]
    maps = [written(some, training).high_C for some in (raw, bright)]
    np.testing.assert_array_equal(*maps)


def test_a_constant_channel_is_refused_by_number() -> None:
    """Case 63."""
    raw = slices(4)
    for image, _ in raw:
        image[1] = 7
    with refuses("data.constant-channel", "site-1: ", "channel 1"):
        written(raw, [True] * 4)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_window_is_what_numpys_percentile_finds_to_the_last_bit(count: int) -> None:
    raw = slices(count, size=(70, 41))
    training = [index % 3 != 1 for index in range(count)]
    found = written(raw, training, patch=(31, 44), target_spacing=(1.3, 2.0))
    target = float(np.sqrt(1.3 * 2.0))
    placed = [fit_into_patch(image, spacing, (31, 44), target) for image, spacing in raw]
    pixels_CP = np.concatenate(
        [
            image[(slice(None), *box)].reshape(2, -1)
            for (image, box, _), used in zip(placed, training, strict=True)
            if used
        ],
        axis=1,
    )
    low_C, high_C = np.percentile(pixels_CP, PERCENTILES, axis=1)
    np.testing.assert_array_equal(found.low_C, low_C.astype(np.float32))
    np.testing.assert_array_equal(found.high_C, high_C.astype(np.float32))


def test_a_hundred_times_the_slices_need_no_more_memory(tmp_path: Path) -> None:
    """Peak of what Python and numpy hold at once, in bytes."""

    def peak(count: int) -> int:
        image_CHW = np.random.default_rng(0).normal(size=(2, 60, 80)).astype(np.float32)
        some = (
            RawSlice(image_CHW=image_CHW + k, spacing=(1.0, 1.0), patient=k, training=True)
            for k in range(count)
        )
        tracemalloc.start()
        write_view(
            tmp_path / f"{count}.npz", some, patch=(60, 80), target_spacing=(1.0, 1.0), site="s"
        )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1000) < peak(10) + 1000 * 60 * 80 * 2 * 4 / 50


def test_masks_lie_on_their_images_and_keep_their_values() -> None:
    random = np.random.default_rng(1)
    raw, labels = [], []
    for size in ((96, 60), (70, 64), (20, 12)):
        label_HW = np.zeros(size, np.int16)
        label_HW[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = 3
        label_HW[-size[0] // 4 :, :5] = 1
        raw.append((100.0 * label_HW[None] + random.normal(0, 1, (1, *size)), (1.0, 1.0)))
        labels.append(label_HW)
    with tempfile.TemporaryDirectory() as folder:
        some = (
            RawSlice(
                image_CHW=image.astype(np.float32),
                spacing=spacing,
                patient=index,
                training=True,
                label_HW=labels[index],
            )
            for index, (image, spacing) in enumerate(raw)
        )
        path = Path(folder) / "view.npz"
        write_view(path, some, patch=PATCH, target_spacing=(2.0, 2.0), site="a")
        assert [file.name for file in Path(folder).iterdir()] == ["view.npz"]
        found = GeneratorView.load(path)
    assert found.masks_NHW is not None
    assert (found.masks_NHW.dtype, found.masks_NHW.shape) == (np.uint8, (3, *PATCH))
    assert [set(np.unique(mask_HW)) for mask_HW in found.masks_NHW] == [{0, 1, 3}] * 3
    bright_NHW = found.physical(found.images_NCHW)[:, 0] > 200
    assert ((found.masks_NHW == 3) == bright_NHW).mean() > 0.97


def test_a_mask_covers_the_rows_and_columns_of_its_image_and_nothing_else() -> None:
    box = (slice(5, 45), slice(2, 30))
    placed_HW = fit_mask_into_patch(np.full((13, 7), 2), box, PATCH)
    assert (placed_HW[box] == 2).all()
    assert placed_HW.sum() == 2 * 40 * 28


def test_a_view_without_masks_has_none() -> None:
    assert view().masks_NHW is None
