"""Measures between images: what they are blind to, and that they are what their papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyfree_ray.privacy.detectors import (
    BLOCK,
    FEATURE_SHIFTS,
    SHIFT,
    Correlation,
    Detector,
    Features,
    Measure,
    Structure,
    on_grid,
    pixel_shifts,
    variants,
)
from hyfree_ray.privacy.self_test import jpeg, shifted
from tests.privacy.test_memorization import embed, images, measures

NAMES = ("features", "correlation", "structure")


def measure(name: str) -> Measure:
    return measures()[NAMES.index(name)]


def test_variants_are_the_mirrored_and_shifted_images() -> None:
    real = images(2, 1, channels=2)
    found = list(variants(real, FEATURE_SHIFTS))
    assert len(found) == 20
    np.testing.assert_array_equal(found[0], real)
    np.testing.assert_array_equal(found[5], real[..., ::-1])
    np.testing.assert_array_equal(found[10], real[..., ::-1, :])
    np.testing.assert_array_equal(found[15], real[..., ::-1, ::-1])
    up, down, left, right = found[1:5]
    np.testing.assert_array_equal(up[:, :, :-SHIFT], real[:, :, SHIFT:])
    np.testing.assert_array_equal(down[:, :, SHIFT:], real[:, :, :-SHIFT])
    np.testing.assert_array_equal(left[..., :-SHIFT], real[..., SHIFT:])
    np.testing.assert_array_equal(right, shifted(real, 0, SHIFT))


@pytest.mark.parametrize(("size", "count"), [((64, 48), 49), ((40, 28), 49), ((256, 192), 9)])
def test_shifts_are_as_dense_as_the_grid_can_tell_apart(size: tuple[int, int], count: int) -> None:
    steps = pixel_shifts(*size)
    assert steps[0] == (0, 0)
    assert len(steps) == len(set(steps)) == count
    assert max(max(step) for step in steps) == SHIFT == -min(min(step) for step in steps)


def test_the_grid_keeps_proportions_and_is_made_of_whole_blocks() -> None:
    for height, width in ((64, 48), (40, 28), (256, 20), (32, 32)):
        grid = on_grid(np.zeros((1, 2, height, width), np.float32))
        tall, wide = grid.shape[2:]
        assert tall % BLOCK == wide % BLOCK == 0
        assert abs(tall / wide - height / width) < 0.4 * height / width or wide == BLOCK


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_at_distance_zero_of_itself_and_far_from_others(name: str) -> None:
    one, other = images(5, 0, channels=3), images(4, 1, channels=3)
    judge = measure(name)
    own = judge.distances(judge.describe(one), judge.describe(one))
    cross = judge.distances(judge.describe(one), judge.describe(other))
    assert cross.shape == (5, 4)
    assert own.diagonal().max() < 1e-3 < cross.min()


@pytest.mark.parametrize("name", ["correlation", "structure"])
def test_pixel_measures_are_blind_to_brightness_and_contrast(name: str) -> None:
    one, judge = images(3, 0), measure(name)
    changed = judge.describe(0.5 * one + 0.3)
    assert judge.distances(changed, judge.describe(one)).diagonal().max() < 1e-3


def test_correlation_is_pearsons() -> None:
    one, other = images(3, 0), images(2, 1)
    judge = Correlation()
    found = judge.distances(judge.describe(one), judge.describe(other))
    flat = np.concatenate([on_grid(one).flatten(1), on_grid(other).flatten(1)])
    np.testing.assert_allclose(found, 1 - np.corrcoef(flat)[:3, 3:], atol=1e-5)


def blocks_of(images_NCHW: np.ndarray) -> np.ndarray:
    """blocks_NBHW of the images on the working grid, brightness and contrast made equal."""
    grid = on_grid(images_NCHW).numpy().astype(float)
    mean, deviation = grid.mean((2, 3), keepdims=True), grid.std((2, 3), keepdims=True, ddof=1)
    of_rows = np.split((grid - mean) / deviation, grid.shape[2] // BLOCK, axis=2)
    found = [x for row in of_rows for x in np.split(row, grid.shape[3] // BLOCK, axis=3)]
    return np.concatenate(found, axis=1)


def test_structure_is_the_mean_of_ssim_over_blocks() -> None:
    judge = Structure()
    both = images(2, 0), images(3, 1)
    found = judge.distances(*(judge.describe(of) for of in both))
    one, other = (blocks_of(of) for of in both)
    c1, c2 = 0.04**2, 0.12**2
    for n in range(2):
        for m in range(3):
            values = []
            for x, y in zip(one[n], other[m], strict=True):
                covariance = ((x - x.mean()) * (y - y.mean())).mean()
                values.append(
                    (2 * x.mean() * y.mean() + c1)
                    * (2 * covariance + c2)
                    / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var() + y.var() + c2))
                )
            assert float(found[n, m]) == pytest.approx(1 - np.mean(values), abs=1e-5)


def test_a_detector_takes_the_nearest_variant_of_each_image() -> None:
    real = images(70, 0)
    for judge in measures():
        detector = Detector.fit(judge, real)
        moved = shifted(real[..., ::-1], SHIFT, 0).astype(np.float32)
        distances_NM = detector.distances(moved)
        assert distances_NM.shape == (70, 70)
        assert distances_NM.diagonal().max() < 5e-3
        assert (distances_NM.argmin(axis=1) == np.arange(70)).all()


def test_constant_images_are_compared_without_a_nan() -> None:
    flat = np.full((2, 1, 40, 28), -1, np.float32)
    for judge in (Correlation(), Structure(), Features(embed=lambda x: embed(x))):
        found = judge.distances(judge.describe(flat), judge.describe(images(2, 0)))
        assert torch.isfinite(found).all()


def test_jpeg_loses_little_of_a_smooth_image_and_more_of_noise() -> None:
    smooth = images(2, 0)
    noise = np.random.default_rng(0).uniform(-1, 1, smooth.shape)
    assert jpeg(smooth).shape == smooth.shape
    assert 0 < np.abs(jpeg(smooth) - smooth).mean() < 0.05 < np.abs(jpeg(noise) - noise).mean()
