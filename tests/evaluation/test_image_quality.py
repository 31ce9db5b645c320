"""Quality against held-out images, and a choice that copies cannot win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hyfree_ray import generators
from hyfree_ray.core.records import write_record
from hyfree_ray.core.stage import Context
from hyfree_ray.evaluation.image_quality import (
    SnapshotScore,
    best_snapshot,
    density_and_coverage,
    kid,
    score_snapshot,
)
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.stages import quality
from hyfree_ray.stages.quality import _draw, choose_snapshot, samples_per_snapshot
from tests.generators.test_training import _train
from tests.stage_records import stage_record


def features(count: int, seed: int, shift: float = 0.0, width: int = 24) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width))
    values[:, 0] += 3 + shift
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_kid_is_near_zero_for_one_distribution_and_grows_with_the_difference() -> None:
    same = kid(features(300, 0), features(200, 1))
    near, far = (kid(features(300, 0), features(200, 1, shift)) for shift in (1.0, 4.0))
    assert abs(same) < 0.05
    assert near > 5 * abs(same)
    assert far > near


def test_kid_is_unbiased_at_small_sizes() -> None:
    values = [kid(features(12, 2 * seed), features(9, 2 * seed + 1)) for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kid_is_the_double_sum_of_its_definition() -> None:
    x, y = features(5, 0, width=3) * np.sqrt(3), features(4, 1, width=3) * np.sqrt(3)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    expected = (
        sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
        - 2 * np.mean([[k(a, b) for b in y] for a in x])
    )
    assert kid(x / np.sqrt(3), y / np.sqrt(3)) == pytest.approx(expected)


def scored(samples: np.ndarray, seed: int = 0, held_out: int = 30) -> SnapshotScore:
    training, others = features(93, 1000 + 2 * seed), features(held_out, 1001 + 2 * seed)
    return score_snapshot(samples, others, training, np.arange(held_out) // 2)


def test_a_snapshot_that_copies_cannot_win() -> None:
    honest, early = scored(features(80, 2, 0.8)), scored(features(80, 3, 3.0))
    copies = scored(features(93, 1000)[:80])
    assert (honest.copies, copies.copies, early.copies) == (False, True, False)
    assert copies.near == 1
    assert copies.kid < honest.kid  # by KID alone the copies would win
    assert best_snapshot([early, honest, copies]) == 1


def test_plain_samples_are_no_copies() -> None:
    """What a generator makes early is near to everything, and to training images no more."""
    middle = features(4000, 5).mean(axis=0)
    found = []
    for seed in range(20):
        plain = 0.5 * middle + 0.5 * features(40, seed)
        found.append(scored(plain / np.linalg.norm(plain, axis=1, keepdims=True), seed).copies)
    assert np.mean(found) <= 0.2


@pytest.mark.parametrize(("copied", "caught"), [(0.25, 0.8), (0.5, 1.0)])
def test_a_share_of_near_copies_is_enough(copied: float, caught: float) -> None:
    """Not quite exact ones, among honest samples, as few as a choice looks at."""
    found = []
    for seed in range(40):
        count = round(copied * 40)
        noise = np.random.default_rng(seed).normal(0, 0.03, (count, 24))
        near = features(93, 1000 + 2 * seed)[:count] + noise
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        found.append(scored(np.concatenate([near, features(40 - count, seed)]), seed).copies)
    assert np.mean(found) >= caught


def test_honest_snapshots_are_seldom_put_out() -> None:
    found = [scored(features(40, seed), seed).copies for seed in range(200)]
    assert np.mean(found) <= 0.08


@pytest.mark.parametrize(("kid_of_copies", "kid_of_honest"), [(0.01, 0.4), (-0.02, -0.01)])
def test_copies_lose_even_to_the_worst_honest_snapshot(
    kid_of_copies: float, kid_of_honest: float
) -> None:
    copies = SnapshotScore(kid=kid_of_copies, near=0.4, copies=True)
    assert best_snapshot([SnapshotScore(kid=kid_of_honest, near=0.1, copies=False), copies]) == 0


def test_where_all_copy_the_one_that_does_so_least_is_taken() -> None:
    scores = [SnapshotScore(kid=0.0, near=share, copies=True) for share in (0.9, 0.4, 0.6)]
    assert best_snapshot(scores) == 1


def test_density_and_coverage_are_near_one_for_real_and_fall_with_collapse() -> None:
    real = features(150, 0)
    density, coverage = density_and_coverage(features(150, 1), real)
    assert 0.7 < density < 1.3
    assert coverage > 0.8
    collapsed = np.repeat(features(3, 2), 50, axis=0)
    assert density_and_coverage(collapsed, real)[1] < 0.3


def test_the_choice_stays_within_its_share_of_the_training() -> None:
    for backend, train, sample in (("flow", 3, 10), ("stylegan2", 9, 1)):
        count = samples_per_snapshot(generators.GENERATORS[backend].config(), 20_000, 4)
        assert 4 * count * sample <= 0.05 * 20_000 * train
        assert count >= 8


def choice_of(folder: Path, held_out: int, samples: Sequence[np.ndarray]) -> dict[str, Any]:
    """Choose among snapshots that draw these samples, at a site of six training patients."""
    generator, prepared = folder / "generator", folder / "prepared"
    names = [f"{100 * (k + 1):08d}.safetensors" for k in range(len(samples))]
    for one in (generator / "snapshots", prepared):
        one.mkdir(parents=True)
    for name in names:
        (generator / "snapshots" / name).touch()
    result = {"snapshots": names, "images_shown": 100 * len(samples)}
    write_record(generator, stage_record(result=result))
    images_NCHW = site_images(24 + held_out)
    np.savez(
        prepared / "view.npz",
        images=images_NCHW,
        patients=np.arange(len(images_NCHW)) // 4,
        training=np.arange(len(images_NCHW)) < 24,
        low=np.zeros(1),
        high=np.ones(1),
        spacing=np.ones(2),
    )
    drawn = dict(zip(names, samples, strict=True))
    with (
        mock.patch.object(quality, "_draw", lambda _, name, **__: drawn[name]),
        mock.patch("hyfree_ray.generators.trained", return_value=(None, FlowConfig(), None)),
        mock.patch("hyfree_ray.privacy.embedders.load_embedder", return_value=pooled),
    ):
        return choose_snapshot(
            Context(out=folder / "out", owner="a"),
            generator=generator,
            segmenter=folder / "segmenter",
            prepared=prepared,
            embedder="nnunet",
            percentile=5.0,
            precision="fp32",
            seed=0,
        )


def site_images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images_NCHW of different people, 24x32, in [-1, 1]."""
    coarse = np.random.default_rng(seed).uniform(-1, 1, (count, 1, 6, 8))
    fine: np.ndarray = np.kron(coarse, np.ones((1, 1, 4, 4))).astype(np.float32)
    return fine


def pooled(images_NCHW: np.ndarray) -> np.ndarray:
    """Features of length 1: means of squares."""
    cells = images_NCHW.reshape(len(images_NCHW), 1, 6, 4, 8, 4).mean((3, 5)).reshape(-1, 48)
    unit: np.ndarray = cells / np.linalg.norm(cells, axis=1, keepdims=True)
    return unit


def test_one_snapshot_is_taken_unseen(tmp_path: Path) -> None:
    found = choice_of(tmp_path, 40, [np.zeros((1, 1, 24, 32), np.float32)])
    assert found["samples"] == 0
    assert found["snapshot"].startswith("00000100")


def test_where_few_are_held_out_the_last_snapshot_that_does_not_copy_is_taken(
    tmp_path: Path,
) -> None:
    honest, more = np.sign(site_images(24, seed=1)), np.sign(site_images(24, seed=2))
    copies = site_images(24)
    found = choice_of(tmp_path / "a", 8, [honest, more, copies])
    assert found["snapshot"].startswith("00000200")
    assert found["copied"][2] == 1.0
    assert found["later_copy"]
    found = choice_of(tmp_path / "b", 8, [honest, copies, more])
    assert found["snapshot"].startswith("00000300")
    assert not found["later_copy"]
    half = np.concatenate([copies[:12], more[:12]])
    found = choice_of(tmp_path / "c", 8, [copies, half])
    assert found["snapshot"].startswith("00000200")
    assert "all copy" in found["reason"]
    assert found["later_copy"]


def test_the_choice_looks_at_all_that_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train("flow", tmp_path, images_shown=32, snapshots=1)
    common = {"seed": 3, "device": "cpu", "precision": "fp32"}
    series = np.concatenate(
        list(generators.sample(tmp_path, "00000032", start=0, count=21, **common))
    )
    drawn: list[int] = []
    backend = generators.GENERATORS["flow"].load()
    sampler = backend.sampler

    def counting(*arguments):
        draw = sampler(*arguments)

        def counted(seeds):
            drawn.append(len(seeds))
            return draw(seeds)

        return counted

    monkeypatch.setattr(backend, "sampler", counting)
    found = _draw(tmp_path, "00000032", count=21, **common)
    np.testing.assert_allclose(found, series, atol=1e-4)
    assert drawn == [11, 11]
