from __future__ import annotations

import math

import pytest
import torch

from hyfree_ray.generators.denoising import learner as training
from hyfree_ray.generators.denoising import unet
from hyfree_ray.generators.denoising.augment import NUMBERS, _maps, augment
from hyfree_ray.generators.flow import network
from hyfree_ray.generators.flow import train as flow
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.protocol import Compute
from tests.generators.plans import tiny_flow


def test_ten_steps_are_as_exact_as_25_of_eulers_on_gaussian_data():
    # Data N(m, s^2): the velocity is known, and so is where each noise ends: m + s noise.
    mean, spread = 0.4, 0.3

    def velocity(x, t):
        variance = (1 - t) ** 2 + (t * spread) ** 2
        return mean + (t * spread**2 - (1 - t)) / variance * (x - t * mean)

    noise = torch.randn(1, 1, 20, 30, dtype=torch.float64)
    exact = mean + spread * noise
    euler = noise
    for k in range(25):
        euler = euler + velocity(euler, k / 25) / 25
    ours = flow.follow(velocity, noise, FlowConfig().evaluations)
    assert (ours - exact).abs().mean() < (euler - exact).abs().mean()


def test_the_time_grid_goes_from_noise_to_image_symmetrically():
    grid = flow.time_grid(10)
    assert grid[0] == pytest.approx(0)
    assert grid[-1] == pytest.approx(1)
    assert grid == sorted(grid)
    assert grid[3] + grid[-4] == pytest.approx(1)


def test_the_rate_warms_up_and_falls():
    assert training.rate_at(training.WARM_UP / 2, 0.004) == pytest.approx(0.002)
    assert training.rate_at(training.WARM_UP, 0.004) == pytest.approx(0.004)
    assert training.rate_at(1.0, 0.004) == pytest.approx(0.004 * training.FINAL_RATE)


def test_a_trained_flow_has_a_lower_loss_of_what_it_was_trained_on():
    """It is the training's error, of each image by itself, and the same whenever it is asked."""
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
    torch.manual_seed(0)
    images = torch.rand(8, 1, 24, 20) * 2 - 1
    plan = tiny_flow(1)
    learner = flow.FlowLearner(plan, compute, images_shown=1200)
    prepared = learner.prepare(images[:4])
    random = torch.Generator().manual_seed(0)
    for step in range(150):
        learner.step(prepared.repeat(2, 1, 1, 1)[: learner.batch_size], step, random)
    sampler = flow.FlowSampler(plan, compute, learner.averaged())
    with torch.no_grad():
        loss = sampler.losses(images)
        alone = torch.cat([sampler.losses(one[None]) for one in images])
    assert loss[:4].max() < loss[4:].min()
    torch.testing.assert_close(loss, alone, rtol=1e-4, atol=1e-6)


def test_a_new_network_draws_the_mean_image_at_any_time():
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
    learner = flow.FlowLearner(tiny_flow(3), compute, images_shown=100)
    means = torch.tensor([-0.8, 0.1, 0.5])[:, None, None]
    images = learner.prepare(means + 0.3 * torch.randn(64, 3, 24, 20).clamp(-1, 1))
    times = torch.tensor([0.0, 0.3, 0.9])
    x = torch.randn(3, *images.shape[1:])
    with torch.no_grad():
        drawn = learner.network(x, times)
    for image in drawn:
        torch.testing.assert_close(image, images.mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_network_is_scaled_by_travels_with_its_weights(channels):
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
    plan = tiny_flow(channels)
    learner = flow.FlowLearner(plan, compute, images_shown=100)
    learner.prepare(torch.full((4, channels, 24, 20), 0.25))
    with torch.no_grad():
        images = flow.FlowSampler(plan, compute, learner.averaged())(range(2))
    torch.testing.assert_close(images, torch.full_like(images, 0.25), atol=0.1, rtol=0.0)


def test_what_was_done_to_an_image_is_told_and_only_that():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(200, 2, 24, 20, generator=random) * 2 - 1
    altered, told = augment(images, random)
    untouched = (told == 0).all(1)
    assert 0.2 < float(untouched.float().mean()) < 0.7
    assert torch.equal(altered[untouched], images[untouched])
    changed = (altered != images).flatten(1).any(1)
    assert torch.equal(changed, ~untouched)
    mirrored_alone = (told[:, 0] == 1) & (told[:, 1:] == 0).all(1)
    assert mirrored_alone.any()
    torch.testing.assert_close(altered[mirrored_alone], images[mirrored_alone].flip(3))


def test_a_turn_keeps_shapes_in_a_non_square_image():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(24.0), indexing="ij")
    disc = (((y - 19.5) ** 2 + (x - 11.5) ** 2) < 64).float() * 2 - 1
    told = torch.zeros(6, 1)
    told[4] = 3.0
    image = disc[None, None]
    grid = torch.nn.functional.affine_grid(_maps(told, image), [1, 1, 40, 24], align_corners=False)
    turned = torch.nn.functional.grid_sample(
        image, grid, padding_mode="border", align_corners=False
    )
    assert float((turned - image).abs().mean()) < 0.05


def test_what_is_told_changes_what_is_drawn_and_nothing_is_told_when_sampling():
    torch.manual_seed(0)
    net = network.Denoiser(tiny_flow(1))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, times = torch.randn(2, 1, 24, 20), torch.tensor([0.2, 0.6])
    none, zeros = net(x, times), net(x, times, torch.zeros(2, NUMBERS))
    assert torch.equal(none, zeros)
    assert not torch.allclose(none, net(x, times, torch.ones(2, NUMBERS)))


def test_padding_continues_the_edge_evenly_on_both_sides():
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
    plan = tiny_flow(1, (21, 19))
    learner = flow.FlowLearner(plan, compute, images_shown=100)
    image = torch.randn(1, 1, 21, 19)
    padded = learner.prepare(image)
    assert padded.shape[2:] == plan.padded_size
    top, left = plan.margin
    assert torch.equal(padded[:, :, top : top + 21, left : left + 19], image)
    assert torch.equal(padded[:, :, -1, left], image[:, :, -1, 0])


def test_a_flow_learns_the_mean_and_spread_of_simple_images():
    torch.manual_seed(0)
    compute = Compute(device=torch.device("cpu"), dtype=torch.bfloat16)
    plan = tiny_flow(1)
    learner = flow.FlowLearner(plan, compute, images_shown=16 * 150)
    random = torch.Generator().manual_seed(1)
    level = torch.where(torch.rand(16 * 150, 1, 1, 1, generator=random) < 0.5, -0.6, 0.8)
    images = learner.prepare(level.expand(-1, -1, 24, 20))
    for step, batch in enumerate(images.split(16)):
        learner.step(batch, step, random)
    with torch.no_grad():
        images = flow.FlowSampler(plan, compute, learner.averaged())(range(64))
    levels = images.mean((1, 2, 3))
    assert 0.2 < float((levels > 0.1).float().mean()) < 0.8
    assert math.isclose(float(levels[levels > 0.1].mean()), 0.8, abs_tol=0.3)
    assert math.isclose(float(levels[levels < 0.1].mean()), -0.6, abs_tol=0.3)


def test_a_bfloat16_network_normalises_as_a_float32_one_does():
    x = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    ours = unet._normalise(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, torch.nn.functional.group_norm(x.float(), 2).bfloat16())
