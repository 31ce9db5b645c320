"""The memorisation filter on images whose copies are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hyfree_ray.privacy.memorization import SHIFT, MemorisationFilter, variants

SIZE = (40, 28)


def images(count: int, seed: int, channels: int = 1) -> np.ndarray:
    """Smooth random images: near shifts of each other are alike, different ones are not."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, channels, *SIZE))
    return gaussian_filter(noise, (0, 0, 4, 4)).astype(np.float32) * 10


def embed(images_NCHW: np.ndarray) -> np.ndarray:
    flat = images_NCHW.reshape(len(images_NCHW), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def fitted(count: int = 60, per_patient: int = 3) -> tuple[MemorisationFilter, np.ndarray]:
    real = images(count, 0)
    patients = np.arange(count) // per_patient
    return MemorisationFilter.calibrate(real, patients, embed, percentile=5), real


def test_variants_are_the_mirrored_and_shifted_images() -> None:
    real = images(2, 1, channels=2)
    found = list(variants(real))
    assert len(found) == 15
    np.testing.assert_array_equal(found[0], real)
    np.testing.assert_array_equal(found[5], real[..., ::-1])
    np.testing.assert_array_equal(found[10], real[..., ::-1, :])
    down = found[1]
    np.testing.assert_array_equal(down[:, :, SHIFT:], real[:, :, :-SHIFT])


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x,
        lambda x: x[..., ::-1],
        lambda x: list(variants(x))[4],
        lambda x: x + 0.01 * np.random.default_rng(3).normal(size=x.shape),
    ],
    ids=["exact", "mirrored", "shifted", "noisy"],
)
def test_copies_count_as_memorised(copy) -> None:  # type: ignore[no-untyped-def]
    rule, real = fitted()
    assert rule.memorised(embed(copy(real).astype(np.float32))).mean() > 0.95


def test_new_images_of_other_patients_are_rejected_about_as_often_as_the_percentile_says() -> None:
    rule, _ = fitted(count=120, per_patient=1)
    assert rule.memorised(embed(images(400, 9))).mean() < 0.12


def test_near_copies_within_a_patient_do_not_tighten_the_threshold() -> None:
    """Frames of one sequence are near copies: only other patients' images calibrate."""
    real = images(60, 0)
    frames = np.repeat(real, 3, axis=0) + 0.01 * np.random.default_rng(1).normal(
        size=(180, 1, *SIZE)
    )
    patients = np.repeat(np.arange(60), 3)
    rule = MemorisationFilter.calibrate(frames.astype(np.float32), patients, embed, percentile=5)
    alone, _ = fitted(per_patient=1)
    assert rule.threshold > 0.8 * alone.threshold


def test_the_nearest_image_is_found_in_its_shifted_form() -> None:
    rule, real = fitted()
    distances, indices = rule.nearest(embed(list(variants(real))[2]))
    np.testing.assert_array_equal(indices, np.arange(len(real)))
    assert distances.max() < rule.threshold
