"""A mask generator, then an image for the mask: Vu et al.'s conditional pairing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyfree_ray import generators
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.stylegan2.networks import Discriminator, Generator
from tests.generators.plans import tiny, tiny_config, tiny_unet
from tests.refusals import refuses

SIZE = (21, 19)
NAMES = [one.name for one in generators.GENERATORS.built_in() if one.conditional]
SERIES = {"count": 4, "seed": 5, "device": "cpu", "precision": "fp32"}


def pairs(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images of two channels, bright inside a rectangle of label 3 that lies anywhere."""
    random = np.random.default_rng(0)
    masks_NHW = np.zeros((count, *SIZE), np.uint8)
    for mask_HW in masks_NHW:
        top, left = random.integers(1, 12), random.integers(1, 10)
        mask_HW[top : top + 7, left : left + 6] = 3
    noise_NCHW = random.uniform(-0.2, 0.2, (count, 2, *SIZE))
    inside_N1HW = (masks_NHW == 3)[:, None]
    return (np.where(inside_N1HW, 0.6, -0.6) + noise_NCHW).astype(np.float32), masks_NHW


def train(folder: Path, name: str, shown: int = 32, **more: Any) -> GeneratorPlan:
    images_NCHW, masks_NHW = pairs(more.pop("count", 8))
    settings: dict[str, Any] = {
        "config": tiny_config(name),
        "mask_encoding": "one-hot",
        "progress": lambda *_: None,
        **more,
    }
    return generators.train(
        name,
        unet=tiny_unet(2, SIZE),
        images_NCHW=images_NCHW,
        masks_NHW=masks_NHW,
        pairing="conditional",
        images_shown=shown,
        seed=0,
        workdir=folder,
        device="cpu",
        precision="fp32",
        mirror=False,
        snapshots=2,
        **settings,
    )


def drawn(folder: Path, start: int = 1) -> tuple[np.ndarray, np.ndarray]:
    snapshot = max((folder / "snapshots").iterdir())
    (batch,) = generators.sample_with_masks(folder, snapshot.name, start=start, **SERIES)
    assert batch.masks_NHW is not None
    return batch.images_NCHW, batch.masks_NHW


def test_flow_and_stylegan2_are_the_ones_that_can() -> None:
    assert NAMES == ["flow", "stylegan2"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["one-hot", "grey"])
def test_masks_and_images_for_them_are_learnt_and_drawn_by_seed(
    name: str, encoding: str, tmp_path: Path
) -> None:
    plan = train(tmp_path, name, mask_encoding=encoding)
    channels = {"one-hot": 2, "grey": 1}[encoding]
    assert (plan.channels, plan.given_channels, plan.mask_channels) == (2, channels, channels)
    _, _, of_masks = generators.trained(tmp_path / "masks")
    assert (of_masks.channels, of_masks.given_channels) == (channels, 0)
    assert of_masks.mask_channels == channels
    assert generators.draws_masks(tmp_path)
    images_NCHW, masks_NHW = drawn(tmp_path)
    assert images_NCHW.shape == (4, 2, *SIZE)
    assert (masks_NHW.dtype, masks_NHW.shape) == (np.uint8, (4, *SIZE))
    assert set(np.unique(masks_NHW)) <= {0, 3}
    later_NCHW, later_NHW = drawn(tmp_path, start=3)
    np.testing.assert_array_equal(later_NCHW[:2], images_NCHW[2:])
    np.testing.assert_array_equal(later_NHW[:2], masks_NHW[2:])


class Killed(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [8, 24], ids=["masks", "images"])
def test_a_training_that_was_killed_in_either_half_ends_as_one_that_was_not(
    name: str, at: int, tmp_path: Path
) -> None:
    def kill(shown: int, total: int) -> None:
        assert total == 32
        if shown == at:
            raise Killed

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reported: list[int] = []
    train(whole, name, saved=lambda shown, _: reported.append(shown))
    assert reported == sorted(reported)
    assert reported[-1] == 32
    with pytest.raises(Killed):
        train(killed, name, saved=kill)
    train(killed, name)
    for one, other in zip(drawn(whole), drawn(killed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_draws_another_image_for_another_mask(name: str, tmp_path: Path) -> None:
    plan = train(tmp_path, name)
    from safetensors.torch import load_file

    from hyfree_ray.generators.protocol import compute_of

    weights = load_file(max((tmp_path / "snapshots").iterdir()))
    sampler = generators.GENERATORS[name].load().sampler(plan, compute_of("cpu", "fp32"), weights)
    given_NKHW = torch.ones(2, 2, *SIZE)
    given_NKHW[:, 1] = -1
    one = sampler([3, 4], given_NKHW)
    other = sampler([3, 4], -given_NKHW)
    assert isinstance(one, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert one.shape == (2, 2, *SIZE)
    assert not torch.equal(one, other)
    assert torch.equal(one, sampler([3, 4], given_NKHW))


def conditional(name: str, given: int) -> Any:
    from dataclasses import replace

    return replace(tiny(name, tiny_unet(2, SIZE)), given_channels=given, mask_channels=given)


def test_stylegan2_takes_the_mask_before_each_convolution_and_the_discriminator_sees_the_pair() -> (
    None
):
    plain, plan = conditional("stylegan2", 0), conditional("stylegan2", 3)
    for before, after in zip(
        Generator(plain).synthesis.convolutions,
        Generator(plan).synthesis.convolutions,
        strict=True,
    ):
        assert after.weight.shape[1] == before.weight.shape[1] + 3
        assert after.affine.weight.shape[0] == before.affine.weight.shape[0] + 3
    discriminator = Discriminator(plan)
    images_NCHW = torch.rand(4, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    masks_NKHW = torch.ones(4, 3, *SIZE)
    seen = discriminator(torch.cat([images_NCHW, masks_NKHW], 1))
    other = discriminator(torch.cat([images_NCHW, -masks_NKHW], 1))
    assert not torch.allclose(seen, other)


def test_the_mask_is_seen_where_it_lies() -> None:
    """At each level of StyleGAN2 it is the average of the pixels that a place stands for."""
    plan = conditional("stylegan2", 1)
    given_NKHW = torch.zeros(1, 1, *SIZE)
    given_NKHW[..., :10, :] = 1
    levels = Generator(plan).synthesis._at_levels(given_NKHW)
    assert [tuple(level.shape[2:]) for level in levels] == list(plan.level_sizes)
    for level in levels:
        assert level[0, 0, 0].eq(1).all()
        assert level[0, 0, -1].eq(0).all()


def test_who_cannot_is_refused_in_one_line(tmp_path: Path) -> None:
    with refuses("generator.no-pairing", "progan", "conditional"):
        resolve_experiment(budget="smoke", generator="progan", device="cpu", pairing="conditional")
    with refuses("generator.no-pairing", "epsilon"):
        resolve_experiment(
            budget="smoke",
            generator="flow",
            device="cpu",
            pairing="conditional",
            overrides=["generator.config.epsilon=3"],
        )
    with pytest.raises(HyfreeError) as refused:
        train(tmp_path / "out", "diffusion")
    assert refused.value.code == "generator.no-pairing"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_flow_draws_the_image_that_the_mask_asks_for(tmp_path: Path) -> None:
    train(tmp_path, "flow", 8000, count=64)
    images_NCHW, masks_NHW = drawn(tmp_path)
    assert (masks_NHW == 3).any((1, 2)).all()
    for image_CHW, mask_HW in zip(images_NCHW, masks_NHW, strict=True):
        inside, outside = image_CHW[:, mask_HW == 3].mean(), image_CHW[:, mask_HW == 0].mean()
        assert inside - outside > 0.8
