"""Generators that learn masks beside images, and draw both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray import generators
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of
from tests.generators.pairs import MEAN_PAIRS
from tests.generators.plans import tiny_unet

SIZE = (21, 19)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(generators.GENERATORS, "_records", {})
    monkeypatch.setattr(generators.GENERATORS, "_registered", set())
    generators.GENERATORS.register(MEAN_PAIRS)
    return


def train(folder: Path, masks_NHW: np.ndarray | None, name: str = "mean-pairs") -> None:
    generators.train(
        name,
        config=generators.GENERATORS[name].config(),
        unet=tiny_unet(2, SIZE),
        images_NCHW=np.full((6, 2, *SIZE), 0.25, np.float32),
        masks_NHW=masks_NHW,
        images_shown=24,
        seed=0,
        workdir=folder,
        device="cpu",
        precision="fp32",
        mirror=False,
        snapshots=1,
        progress=lambda *_: None,
    )


def masks() -> np.ndarray:
    masks_NHW = np.zeros((6, *SIZE), np.uint8)
    masks_NHW[:, 4:12, 3:9] = 1
    return masks_NHW


def test_masks_are_learned_beside_their_images_and_drawn_with_them(tmp_path: Path) -> None:
    train(tmp_path, masks())
    series = {"start": 3, "count": 20, "seed": 5, "device": "cpu", "precision": "fp32"}
    drawn = list(generators.sample_with_masks(tmp_path, "00000024", **series))
    images_NCHW = np.concatenate([batch.images_NCHW for batch in drawn])
    masks_NHW = np.concatenate([batch.masks_NHW for batch in drawn])
    assert images_NCHW.shape == (20, 2, *SIZE)
    assert (masks_NHW.dtype, masks_NHW.shape) == (np.uint8, (20, *SIZE))
    assert abs(images_NCHW.mean() - 0.25) < 0.01
    assert masks_NHW[:, 4:12, 3:9].all()
    assert masks_NHW[:, 13:].sum() == 0
    assert masks_NHW[:, 0, 0].tolist() == [seed_of(5, "sample", k) % 2 for k in range(3, 23)]
    alone = np.concatenate(list(generators.sample(tmp_path, "00000024", **series)))
    np.testing.assert_array_equal(alone, images_NCHW)


@pytest.mark.parametrize("given", [None, masks()[:5], masks().astype(np.float32)])
def test_masks_that_do_not_fit_their_images_are_refused(
    tmp_path: Path, given: np.ndarray | None
) -> None:
    with pytest.raises(HyfreeError, match=r"learns masks, uint8 \(6, 21, 19\)") as refused:
        train(tmp_path, given)
    assert refused.value.code == "generator.bad-images"


def test_a_generator_that_says_one_thing_and_draws_another_is_named(tmp_path: Path) -> None:
    train(tmp_path, masks())
    generators.GENERATORS.register(replace(MEAN_PAIRS, emits="image"))
    with pytest.raises(HyfreeError, match="'mean-pairs'") as refused:
        list(
            generators.sample(
                tmp_path, "00000024", start=0, count=1, seed=0, device="cpu", precision="fp32"
            )
        )
    assert refused.value.code == "extension.broken"


def test_a_generator_that_draws_pairs_by_itself_leaves_nothing_to_label() -> None:
    found, _ = resolve_experiment(budget="smoke", generator="mean-pairs", device="cpu")
    assert found.generator.pairing == "joint"
    with pytest.raises(HyfreeError, match="mean-pairs") as refused:
        resolve_experiment(budget="smoke", generator="mean-pairs", device="cpu", pairing="labelled")
    assert refused.value.code == "generator.no-pairing"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"emits": "mask"}, "draws masks alone"),
        ({"emits": "image", "given": "mask"}, "draws images for given masks alone"),
    ],
)
def test_what_makes_no_release_alone_is_no_experiments_generator(
    changes: dict[str, Any], what: str
) -> None:
    generators.GENERATORS.register(replace(MEAN_PAIRS, **changes))
    with pytest.raises(HyfreeError, match=what) as refused:
        resolve_experiment(budget="smoke", generator="mean-pairs", device="cpu")
    assert refused.value.code == "generator.incomplete"
