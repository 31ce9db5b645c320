"""The generator's view of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.errors import HyfreeError
from hyfree_ray.generator_view import GeneratorView, build_view, fit_into_patch

PATCH = (48, 32)


def slices(count: int, channels: int = 2, size: tuple[int, int] = (96, 60)) -> list[tuple]:
    rng = np.random.default_rng(0)
    images = rng.normal(100, 20, (count, channels, *size)).astype(np.float32)
    return [(image, (1.0, 1.0)) for image in images]


def view(count: int = 6, **changes: object) -> GeneratorView:
    arguments = {
        "patch": PATCH,
        "target_spacing": (2.0, 2.0),
        "site": "site-1",
        **changes,
    }
    training = [True] * (count - 2) + [False] * 2
    return build_view(slices(count), list(range(count)), training, **arguments)  # type: ignore[arg-type]


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
    placed_CHW, covered_HW, _ = fit_into_patch(image_CHW, (1.0, 1.0), (45, 45), 2.0)
    assert covered_HW.sum(axis=0).max() == 45
    assert covered_HW.sum(axis=1).max() == 15
    column_W = placed_CHW[0].mean(axis=0)
    assert column_W[20:25].mean() > 0.8
    assert placed_CHW[0].mean(axis=1).std() < 1e-3


def test_a_slice_larger_than_the_patch_is_shrunk_alike_on_both_axes() -> None:
    _, covered_HW, spacing = fit_into_patch(np.ones((1, 200, 100)), (1.0, 1.0), (50, 50), 2.0)
    assert covered_HW.any(axis=1).sum() == 50
    assert covered_HW.any(axis=0).sum() == 25
    assert spacing == (4.0, 4.0)


def test_anisotropic_pixels_get_their_true_proportions() -> None:
    _, covered_HW, _ = fit_into_patch(np.ones((1, 40, 40)), (2.0, 1.0), (64, 64), 1.0)
    assert (covered_HW.any(axis=1).sum(), covered_HW.any(axis=0).sum()) == (64, 32)


def test_units_come_back() -> None:
    raw = slices(6)
    found = view()
    physical_NCHW = found.physical(found.images_NCHW)
    pixels = np.concatenate([image.ravel() for image, _ in raw])
    assert abs(physical_NCHW[:, :, :, 2:-2].mean() - pixels.mean()) < 2
    assert physical_NCHW.min() >= found.low_C.min() - 1e-3


def test_one_map_for_all_images_keeps_their_differences_in_brightness() -> None:
    raw = [(image + 50 * k, spacing) for k, (image, spacing) in enumerate(slices(5))]
    found = build_view(
        raw, range(5), [True] * 5, patch=PATCH, target_spacing=(2.0, 2.0), site="site-1"
    )
    means = found.images_NCHW[:, 0, :, 2:-2].mean(axis=(1, 2))
    assert (np.diff(means) > 0.1).all()


def test_the_map_is_made_from_training_images_only() -> None:
    raw = slices(6)
    bright = [*raw[:-1], (raw[-1][0] + 1e6, (1.0, 1.0))]
    training = [True] * 5 + [False]
    maps = [
        build_view(
            some, range(6), training, patch=PATCH, target_spacing=(2.0, 2.0), site="site-1"
        ).high_C
        for some in (raw, bright)
    ]
    np.testing.assert_array_equal(*maps)


def test_a_constant_channel_is_refused_by_number() -> None:
    raw = slices(4)
    for image, _ in raw:
        image[1] = 7
    with pytest.raises(HyfreeError, match="site-1: channel 1 has the same value"):
        build_view(raw, range(4), [True] * 4, patch=PATCH, target_spacing=(2.0, 2.0), site="site-1")


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    found = view()
    found.save(tmp_path / "view.npz")
    loaded = GeneratorView.load(tmp_path / "view.npz")
    np.testing.assert_array_equal(found.images_NCHW, loaded.images_NCHW)
    np.testing.assert_array_equal(found.patients_N, loaded.patients_N)
    assert found.spacing == loaded.spacing
