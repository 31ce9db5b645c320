"""The highest correlation with a training image: numpy's own, in and out of the foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hyfree_ray.core.stage import Context
from hyfree_ray.privacy.pixel_correlation import (
    correlations,
    foreground_of,
    highest_correlations,
)
from hyfree_ray.stages.memorisation import CORRELATIONS_FILE, pixel_correlation

SIZE = (24, 40)


def heads(count: int, seed: int, channels: int = 2) -> np.ndarray:
    """Bright ellipses of noise on a black background that all share."""
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    inside_HW = ((rows - 11.5) / 9) ** 2 + ((columns - 19.5) / 14) ** 2 < 1
    images_NCHW = np.full((count, channels, *SIZE), -1.0, np.float32)
    images_NCHW[..., inside_HW] = random.normal(0.4, 0.15, (count, channels, inside_HW.sum()))
    return images_NCHW.clip(-1, 1)


def test_the_masked_correlation_is_numpys_over_the_known_images_pixels() -> None:
    random = np.random.default_rng(0)
    query_NP = random.normal(size=(3, 50)).astype(np.float32)
    known_MP = random.normal(size=(4, 50)).astype(np.float32)
    mask_MP = random.random((4, 50)) < 0.6
    found_NM = correlations(
        torch.from_numpy(query_NP),
        torch.from_numpy(known_MP),
        torch.from_numpy(mask_MP.astype(np.float32)),
    )
    for n in range(3):
        for m in range(4):
            wanted = np.corrcoef(query_NP[n, mask_MP[m]], known_MP[m, mask_MP[m]])[0, 1]
            assert found_NM[n, m] == pytest.approx(wanted, abs=1e-5)


def test_a_shared_background_lifts_the_full_grid_and_not_the_foreground() -> None:
    found = highest_correlations(heads(5, seed=1), heads(30, seed=2))
    assert found.full_N.min() > 0.9
    assert found.foreground_N.max() < 0.4


def test_a_copy_correlates_fully_at_any_brightness_and_a_constant_image_with_nothing() -> None:
    known_MCHW = heads(6, seed=3)
    copy_CHW = known_MCHW[4] * 0.5 + 0.1
    found = highest_correlations(
        np.stack([copy_CHW, np.zeros_like(copy_CHW)]).astype(np.float32), known_MCHW
    )
    assert found.full_N == pytest.approx([1, 0], abs=1e-4)
    assert found.foreground_N == pytest.approx([1, 0], abs=1e-4)


def test_images_of_the_same_patient_are_not_compared() -> None:
    one_NCHW = heads(2, seed=4)
    real_NCHW = np.concatenate([one_NCHW, one_NCHW[:1]])
    same_NN = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    found = highest_correlations(real_NCHW, real_NCHW, excluded_NM=same_NN)
    assert found.foreground_N.max() < 0.9
    alone = highest_correlations(real_NCHW, real_NCHW, excluded_NM=np.ones((3, 3), bool))
    assert np.isnan(alone.full_N).all()


def test_the_foreground_is_what_is_bright_and_all_of_constant_images() -> None:
    images_NCHW = heads(4, seed=5)
    assert (foreground_of(images_NCHW) == (images_NCHW.mean(axis=1) > -0.5)).all()
    assert foreground_of(np.zeros((2, 1, 8, 9), np.float32)).all()


def prepared(folder: Path, images_NCHW: np.ndarray, patients: list[int]) -> Path:
    folder.mkdir()
    np.savez(
        folder / "view.npz",
        images=images_NCHW,
        patients=np.array(patients),
        training=np.ones(len(patients), bool),
        low=np.zeros(2, np.float32),
        high=np.ones(2, np.float32),
        spacing=np.ones(2),
    )
    return folder


def test_the_stage_holds_copies_against_the_level_of_real_images(tmp_path: Path) -> None:
    real_NCHW = heads(12, seed=6)
    drawn_NCHW = np.concatenate([real_NCHW[:3], heads(9, seed=7)])
    samples, out = tmp_path / "samples", tmp_path / "out"
    samples.mkdir()
    out.mkdir()
    np.save(samples / "accepted.npy", ((drawn_NCHW + 1) / 2 * 255).round().astype(np.uint8))
    folder = prepared(tmp_path / "prepared", real_NCHW, [n // 2 for n in range(12)])
    context = Context(out=out, owner="A", device="cpu")
    found = pixel_correlation(context, samples=samples, prepared=folder)
    assert found["foreground"]["above_real"] >= 3 / 12
    assert found["foreground"]["samples"]["highest"] > 0.99
    assert found["foreground"]["real_to_real"]["highest"] < 0.5
    assert found["full_grid"]["real_to_real"]["median"] > 0.9
    assert sorted(path.name for path in out.iterdir()) == [
        CORRELATIONS_FILE,
        "pixel_correlation.png",
    ]
    one = prepared(tmp_path / "one", real_NCHW, [0] * 12)
    assert pixel_correlation(context, samples=samples, prepared=one) == {}
