from __future__ import annotations

import math

import pytest
import torch

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
    assert flow.rate_at(flow.WARM_UP / 2) == pytest.approx(flow.LEARNING_RATE / 2)
    assert flow.rate_at(flow.WARM_UP) == pytest.approx(flow.LEARNING_RATE)
    assert flow.rate_at(1.0) == pytest.approx(flow.LEARNING_RATE * flow.FINAL_RATE)


def test_a_new_networks_loss_is_the_variance_of_the_velocity():
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
    learner = flow.FlowLearner(tiny_flow(3), compute, images_shown=100)
    images = learner.prepare(torch.full((64, 3, 24, 20), 0.5))
    value = learner.loss(images, torch.Generator().manual_seed(0)).detach()
    assert float(value) == pytest.approx(1 + 0.5**2, rel=0.02)


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
    for step in range(150):
        level = torch.where(torch.rand(16, 1, 1, 1, generator=random) < 0.5, -0.6, 0.8)
        learner.step(learner.prepare(level.expand(-1, -1, 24, 20)), step, random)
    with torch.no_grad():
        images = flow.FlowSampler(plan, compute, learner.averaged())(range(64))
    levels = images.mean((1, 2, 3))
    assert 0.2 < float((levels > 0.1).float().mean()) < 0.8
    assert math.isclose(float(levels[levels > 0.1].mean()), 0.8, abs_tol=0.3)
    assert math.isclose(float(levels[levels < 0.1].mean()), -0.6, abs_tol=0.3)


def test_a_bfloat16_network_normalises_as_a_float32_one_does():
    x = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    ours = network._normalise(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, torch.nn.functional.group_norm(x.float(), 2).bfloat16())
