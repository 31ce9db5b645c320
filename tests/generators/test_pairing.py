"""Image and mask drawn together by a generator of images: masks as further channels, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyfree_ray import generators
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.adversarial.augment import augment
from hyfree_ray.generators.denoising.augment import augment as augment_denoised
from hyfree_ray.generators.pairing import MaskEncoding
from tests.generators.plans import tiny_config, tiny_unet

SIZE = (21, 19)
NAMES = [generator.name for generator in generators.GENERATORS.built_in()]
BRATS = np.array([0, 1, 2, 4], np.uint8)


@pytest.mark.parametrize("kind", ["one-hot", "grey"])
def test_what_was_encoded_is_decoded(kind: Any) -> None:
    masks_NHW = np.random.default_rng(0).choice(BRATS, (3, *SIZE))
    encoding = MaskEncoding.of(kind, masks_NHW)
    channels_NKHW = encoding.encode(masks_NHW)
    assert channels_NKHW.shape == (3, encoding.channels, *SIZE)
    assert encoding.channels == {"one-hot": 4, "grey": 1}[kind]
    assert (channels_NKHW.dtype, np.abs(channels_NKHW).max() <= 1) == (np.float32, True)
    noise = 0.02 * torch.randn(channels_NKHW.shape, generator=torch.Generator().manual_seed(0))
    found_NHW = encoding.decode(torch.from_numpy(channels_NKHW) + noise)
    np.testing.assert_array_equal(found_NHW.numpy(), masks_NHW)
    assert MaskEncoding.read(encoding.described()) == encoding


def test_greys_and_thresholds_are_akbars() -> None:
    """0, 51, 102, 204 of 255; over 153 is 4, over 76.5 is 2, over 25.5 is 1."""
    encoding = MaskEncoding(kind="grey", values=(0, 1, 2, 4))
    greys = (encoding.encode(BRATS[None, None])[0, 0, 0] + 1) / 2 * 255
    assert greys == pytest.approx([0, 51, 102, 204], abs=1e-3)
    given = torch.tensor([25, 26, 76, 77, 152, 154, 255.0]) / 255 * 2 - 1
    assert encoding.decode(given[None, None, None]).flatten().tolist() == [0, 1, 1, 2, 2, 4, 4]


def test_an_edge_between_the_outer_greys_has_a_false_rim_and_between_channels_none() -> None:
    mask_NHW = np.repeat(np.array([0, 0, 0, 2, 2, 2], np.uint8), 1)[None, None]
    grey, one_hot = (MaskEncoding(kind=kind, values=(0, 1, 2)) for kind in ("grey", "one-hot"))

    def blurred(encoding: MaskEncoding) -> list[int]:
        channels = torch.from_numpy(encoding.encode(mask_NHW))
        soft = torch.nn.functional.avg_pool2d(channels, (1, 3), 1, (0, 1), count_include_pad=False)
        return list(encoding.decode(soft).flatten().tolist())

    assert 1 in blurred(grey)
    assert 1 not in blurred(one_hot)


def test_labels_have_no_colour() -> None:
    pairs_NCHW = torch.rand(64, 4, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels = torch.where(torch.rand(64, 2, *SIZE) < 0.5, -1.0, 1.0)
    pairs_NCHW[:, 2:] = labels
    found = augment(pairs_NCHW, torch.Generator().manual_seed(0), 2)
    assert set(found[:, 2:].unique().tolist()) == {-1.0, 0.0, 1.0}  # 0: beyond the edge, or cut
    brighter, told_NA = augment_denoised(pairs_NCHW, torch.Generator().manual_seed(3), 2)
    still = (told_NA[:, :5] == 0).all(1) & (told_NA[:, 5] != 0)
    assert still.any()
    assert torch.equal(brighter[still][:, 2:], labels[still])
    assert not torch.equal(brighter[still][:, :2], pairs_NCHW[still][:, :2])


def train(folder: Path, name: str, shown: int, encoding: Any = "one-hot", **more: Any) -> None:
    random = np.random.default_rng(0)
    masks_NHW = np.zeros((8, *SIZE), np.uint8)
    masks_NHW[:, 4:12, 3:9] = 3
    images_NCHW = random.uniform(-1, 1, (8, 2, *SIZE)).astype(np.float32)
    generators.train(
        name,
        config=tiny_config(name),
        unet=tiny_unet(2, SIZE),
        images_NCHW=images_NCHW,
        masks_NHW=masks_NHW,
        mask_encoding=encoding,
        images_shown=shown,
        seed=0,
        workdir=folder,
        device="cpu",
        precision="fp32",
        mirror=False,
        snapshots=1,
        progress=lambda *_: None,
        **more,
    )


def drawn(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    (snapshot,) = (folder / "snapshots").iterdir()
    series = {"start": 1, "count": 4, "seed": 5, "device": "cpu", "precision": "fp32"}
    (batch,) = generators.sample_with_masks(folder, snapshot.name, **series)
    assert batch.masks_NHW is not None
    alone = np.concatenate(list(generators.sample(folder, snapshot.name, **series)))
    np.testing.assert_array_equal(alone, batch.images_NCHW)
    return batch.images_NCHW, batch.masks_NHW


@pytest.mark.parametrize("name", NAMES)
def test_every_generator_of_images_learns_and_draws_pairs(name: str, tmp_path: Path) -> None:
    train(tmp_path, name, 32)
    images_NCHW, masks_NHW = drawn(tmp_path)
    assert images_NCHW.shape == (4, 2, *SIZE)
    assert (masks_NHW.dtype, masks_NHW.shape) == (np.uint8, (4, *SIZE))
    assert set(np.unique(masks_NHW)) <= {0, 3}
    _, _, plan = generators.trained(tmp_path)
    assert (plan.channels, plan.mask_channels) == (4, 2)


class Killed(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize("name", NAMES)
def test_a_training_of_pairs_that_was_killed_ends_as_one_that_was_not(
    name: str, tmp_path: Path
) -> None:
    def kill(step: int, total: int) -> None:
        if step < total:
            raise Killed

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, name, 32, "grey")
    with pytest.raises(Killed):
        train(killed, name, 32, "grey", saved=kill)
    train(killed, name, 32, "grey")
    for one, other in zip(drawn(whole), drawn(killed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_flow_learns_where_the_mask_is(tmp_path: Path) -> None:
    train(tmp_path, "flow", 6000)
    _, masks_NHW = drawn(tmp_path)
    inside_NHW = np.zeros(masks_NHW.shape, bool)
    inside_NHW[:, 4:12, 3:9] = True
    assert ((masks_NHW == 3) == inside_NHW).mean() > 0.95


def test_masks_that_do_not_fit_are_refused_and_labelled_is_the_usual_pairing(
    tmp_path: Path,
) -> None:
    with pytest.raises(HyfreeError) as refused:
        generators.train(
            "flow",
            config=tiny_config("flow"),
            unet=tiny_unet(2, SIZE),
            images_NCHW=np.zeros((8, 2, *SIZE), np.float32),
            masks_NHW=np.zeros((7, *SIZE), np.uint8),
            images_shown=8,
            seed=0,
            workdir=tmp_path,
            device="cpu",
            precision="fp32",
            mirror=False,
            snapshots=1,
            progress=lambda *_: None,
        )
    assert refused.value.code == "generator.bad-images"
    found, _ = resolve_experiment(budget="smoke", generator="flow", device="cpu")
    assert found.generator.pairing == "labelled"
    joint, _ = resolve_experiment(
        budget="smoke",
        generator="flow",
        device="cpu",
        pairing="joint",
        overrides=["generator.mask_encoding=grey"],
    )
    assert (joint.generator.pairing, joint.generator.mask_encoding) == ("joint", "grey")
    assert joint.recipe([1]) != found.recipe([1])
