"""What holds for every generator that there is, through its record alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.protocol import compute_of
from tests.generators.plans import tiny, tiny_config, tiny_unet, unet_plan

NAMES = [generator.name for generator in GENERATORS.built_in()]


def _trained_a_little(name, unet, shown=32):
    """A learner after a whole training that is short, and its sampler."""
    torch.manual_seed(0)
    generator, plan, compute = GENERATORS[name], tiny(name, unet), compute_of("cpu", "fp32")
    if generator.schedule is not None:
        plan = generator.schedule(plan, tiny_config(name), images=8, images_shown=shown)
    backend = generator.load()
    learner = backend.learner(plan, compute, images_shown=shown)
    images = learner.prepare(
        torch.rand(learner.batch_size, unet.channels, *unet.patch_size) * 2 - 1
    )
    random = torch.Generator().manual_seed(1)
    for step in range(shown // learner.batch_size):
        losses = learner.step(images, step, random)
        assert all(torch.isfinite(value) for value in losses.values()), losses
    return learner, backend.sampler(plan, compute, learner.averaged())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("patch", [(24, 20), (21, 19)])
def test_it_takes_and_gives_patches_of_any_channels_and_size(name, channels, patch):
    _, sampler = _trained_a_little(name, tiny_unet(channels, patch))
    with torch.no_grad():
        images = sampler(range(3))
    assert images.shape == (3, channels, *patch)
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("patch", "strides"),
    [((6, 5), ((1, 1),)), ((18, 13), ((1, 1), (3, 1), (2, 2)))],
)
def test_plans_without_levels_and_with_strides_of_any_size_work(name, patch, strides):
    _, sampler = _trained_a_little(name, unet_plan(patch, strides=strides))
    with torch.no_grad():
        assert sampler([1, 2]).shape == (2, 1, *patch)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_the_plan_are_the_networks(name):
    unet = tiny_unet()
    flat = replace(unet, kernel_sizes=((3, 3), (1, 3), (3, 1), (5, 3)))
    counts = []
    for plan in (unet, flat):
        learner, sampler = _trained_a_little(name, plan)
        with torch.no_grad():
            assert sampler([1]).shape == (1, 1, 24, 20)
        counts.append(sum(value.numel() for value in learner.averaged().values()))
    assert counts[0] != counts[1]
