from __future__ import annotations

import math

import pytest
import torch

from hyfree_ray.generators.diffusion import process
from hyfree_ray.generators.diffusion import train as diffusion
from hyfree_ray.generators.diffusion.config import STEPS, DiffusionConfig
from hyfree_ray.generators.diffusion.plan import derive, schedule
from hyfree_ray.generators.protocol import Compute
from tests.generators.plans import tiny, unet_plan

COMPUTE = Compute(device=torch.device("cpu"), dtype=torch.float32)
MEAN, SPREAD = 0.4, 0.3


def _image_of(x, _step, kept):
    """The mean image behind x_t, where images are N(MEAN, SPREAD^2)."""
    variance = kept * SPREAD**2 + 1 - kept
    return MEAN + kept**0.5 * SPREAD**2 / variance * (x - kept**0.5 * MEAN)


def test_the_noise_is_linear_in_its_variance_and_leaves_nothing_of_the_image():
    betas = process.betas_T()
    assert betas.shape == (4000,)
    assert (float(betas[0]), float(betas[-1])) == pytest.approx((2.5e-5, 5e-3))
    torch.testing.assert_close(betas.diff(), torch.full_like(betas[1:], float(betas.diff()[0])))
    assert float(process.kept_T()[-1]) < 1e-4


def test_noise_at_once_is_noise_step_by_step():
    """Equation 4 of Ho et al. 2020, against equation 2 applied 1,000 times."""
    image_share, variance = 1.0, 0.0
    for step in range(1000):
        beta = float(process.betas_T()[step])
        image_share, variance = image_share * (1 - beta) ** 0.5, (1 - beta) * variance + beta
    kept = process.kept_T()[999:1000]
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert float(process.noisy(one, 0 * one, kept)) == pytest.approx(image_share)
    assert float(process.noisy(0 * one, one, kept)) == pytest.approx(variance**0.5)


@pytest.mark.parametrize("step", [1, 700, 3999])
def test_the_posterior_mean_is_bayes_and_the_one_written_with_the_noise(step):
    beta, kept = float(process.betas_T()[step]), float(process.kept_T()[step])
    before = float(process.kept_T()[step - 1])
    image, noise = torch.randn(2, 1, 1, 3, 5, dtype=torch.float64)
    x = process.noisy(image, noise, torch.tensor([kept], dtype=torch.float64))
    # x_(t-1) is N(sqrt(before) image, 1 - before), and x_t tells of it with variance beta.
    precision = 1 / (1 - before) + (1 - beta) / beta
    bayes = (before**0.5 * image / (1 - before) + (1 - beta) ** 0.5 * x / beta) / precision
    torch.testing.assert_close(process.posterior_mean(x, image, step), bayes)
    written = (x - beta / (1 - kept) ** 0.5 * noise) / (1 - beta) ** 0.5
    torch.testing.assert_close(process.image_behind(x, noise, kept), image)
    torch.testing.assert_close(process.posterior_mean(x, image, step), written)


def test_all_steps_back_draw_the_images_that_there_are():
    random = torch.Generator().manual_seed(0)
    shape = (1, 1, 50, 80)
    x = process.ancestral(_image_of, lambda: torch.randn(shape, generator=random))
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(SPREAD, rel=0.05)


def test_fewer_steps_back_follow_the_noise_and_the_more_the_closer():
    noise = torch.randn(1, 1, 30, 20, dtype=torch.float64)
    exact = MEAN + SPREAD * noise
    errors = [
        float((process.ddim(_image_of, noise, evaluations) - exact).abs().mean())
        for evaluations in (10, 40, 160)
    ]
    assert errors[2] < errors[1] < errors[0] < 0.1
    assert errors[2] < 0.01


def test_a_fresh_network_predicts_the_best_linear_guess_of_the_noise():
    network = diffusion.NoisePredictor(tiny("diffusion"))
    step = torch.tensor([10, 3000])
    kept = process.kept_T()[step].float()
    x = torch.randn(2, 1, 24, 20)
    with torch.no_grad():
        found = network(x, step, kept)
    torch.testing.assert_close(found, (1 - kept)[:, None, None, None].sqrt() * x)


def test_parameters_are_those_of_the_formula():
    config = DiffusionConfig(max_channels=32, blocks=2)
    plan = derive(unet_plan((32, 32), strides=((1, 1), (2, 2), (2, 2)), channels=3), config)
    assert plan.features == (8, 8, 16)
    assert plan.attention == (1, 2)

    def convolution(inputs, outputs, kernel=9):
        return inputs * outputs * kernel + outputs

    enter, leave = convolution(3, 8), convolution(8, 3)
    blocks = (2 * 2 * 2) * 2 * convolution(8, 8) + (2 * 2 + 1) * 2 * convolution(16, 16)
    down = convolution(8, 8) + convolution(8, 16)
    up = convolution(8, 8, 1) + convolution(16, 8, 1)
    places = 8 * 32 * 32 + 8 * 16 * 16 + 16 * 8 * 8
    attention = 2 * sum(convolution(f, 3 * f, 1) + convolution(f, f, 1) for f in (8, 16))
    embedding = (64 * 32 + 32) + (32 * 32 + 32) + 6 * 32
    modulate = (32 + 1) * 2 * (8 * 8 + 5 * 16)
    network = diffusion.NoisePredictor(plan)
    assert sum(p.numel() for p in network.parameters()) == sum(
        (enter, leave, blocks, down, up, places, attention, embedding, modulate)
    )


def test_akbars_network_has_his_widths_depth_and_attention():
    strides = ((1, 1), *((2, 2),) * 5)
    plan = derive(unet_plan((256, 256), strides=strides, channels=5), DiffusionConfig())
    assert plan.features == (64, 64, 128, 128, 256, 256)
    assert plan.blocks == 3
    assert [plan.level_sizes[level] for level in plan.attention] == [(16, 16), (8, 8)]
    assert plan.evaluations == STEPS
    trained = schedule(plan, DiffusionConfig(), images=100, images_shown=1000)
    assert (trained.batch_size, trained.learning_rate) == (32, 1e-4)


@pytest.mark.parametrize("evaluations", [20, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_a_diffusion_learns_the_mean_and_spread_of_simple_images(evaluations):
    torch.manual_seed(0)
    config = DiffusionConfig(
        max_channels=8, blocks=1, evaluations=evaluations, batch_size=16, learning_rate=4e-3
    )
    unet = unet_plan((6, 5), strides=((1, 1), (2, 1)))
    plan = schedule(derive(unet, config), config, images=2400, images_shown=2400)
    learner = diffusion.DiffusionLearner(plan, COMPUTE, images_shown=16 * 150)
    random = torch.Generator().manual_seed(1)
    level = torch.where(torch.rand(16 * 150, 1, 1, 1, generator=random) < 0.5, -0.6, 0.8)
    images = learner.prepare(level.expand(-1, -1, 6, 5))
    for step, batch in enumerate(images.split(16)):
        learner.step(batch, step, random)
    sampler = diffusion.DiffusionSampler(plan, COMPUTE, learner.averaged())
    with torch.no_grad():
        levels = sampler(range(32)).mean((1, 2, 3))
        again = sampler([7])
    assert 0.2 < float((levels > 0.1).float().mean()) < 0.8
    assert math.isclose(float(levels[levels > 0.1].mean()), 0.8, abs_tol=0.3)
    assert math.isclose(float(levels[levels < 0.1].mean()), -0.6, abs_tol=0.3)
    assert float(again.mean()) == pytest.approx(float(levels[7]), abs=1e-3)
