"""Margins of synthetic images."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.segmenters.content_box import content_box


def image(box: tuple[slice, slice], channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 10, (channels, 40, 28), dtype=np.uint8)
    stored[0][box] = rng.integers(5, 256, stored[0][box].shape)
    return stored


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "box",
    [(slice(5, 33), slice(0, 28)), (slice(0, 40), slice(4, 20)), (slice(0, 40), slice(0, 28))],
)
def test_noisy_margins_are_found_on_any_side(box: tuple[slice, slice], channels: int) -> None:
    assert content_box(image(box, channels)) == box


def test_a_dark_image_is_all_content() -> None:
    assert content_box(np.zeros((1, 40, 28), np.uint8)) == (slice(0, 40), slice(0, 28))


def test_a_dark_band_inside_the_image_is_kept() -> None:
    stored = image((slice(0, 40), slice(0, 28)))
    stored[:, 15:20] = 0
    assert content_box(stored) == (slice(0, 40), slice(0, 28))
