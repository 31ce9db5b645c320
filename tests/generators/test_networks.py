from __future__ import annotations

import pytest
import torch

from hyfree_ray.generators.adversarial.layers import minibatch_spread
from hyfree_ray.generators.flow import plan as flow
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.flow.network import Denoiser
from hyfree_ray.generators.stylegan2 import plan as stylegan2
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from hyfree_ray.generators.stylegan2.networks import Discriminator, Generator
from tests.generators.plans import tiny_flow, tiny_stylegan2, unet_plan


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _noises(generator: Generator, count: int) -> list[torch.Tensor]:
    return [torch.randn(count, 1, *size) for size in generator.synthesis.noise_sizes]


def test_the_papers_plan_has_the_papers_parameters():
    plan = stylegan2.derive(unet_plan((96, 64)), StyleGan2Config())
    with torch.device("meta"):
        generator, discriminator = Generator(plan), Discriminator(plan)
    assert _parameters(generator) == pytest.approx(24.2e6, rel=0.02)
    assert _parameters(discriminator) == pytest.approx(27.3e6, rel=0.02)


def test_the_small_budgets_flow_has_about_a_million_parameters_at_most():
    with torch.device("meta"):
        network = Denoiser(flow.derive(unet_plan((64, 64)), FlowConfig(max_channels=64)))
    assert 0.3e6 < _parameters(network) < 1.2e6


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("patch", [(24, 20), (21, 19)])
def test_networks_take_and_give_patches_of_any_channels_and_size(channels, patch):
    plan = tiny_stylegan2(channels, patch)
    generator, discriminator = Generator(plan), Discriminator(plan)
    images = generator(torch.randn(4, plan.latent_size), _noises(generator, 4))
    assert images.shape == (4, channels, *patch)
    assert discriminator(images).shape == (4,)
    padded = torch.randn(2, channels, *plan.padded_size)
    assert Denoiser(tiny_flow(channels, patch))(padded, torch.rand(2)).shape == padded.shape


def test_a_plan_without_levels_works():
    unet = unet_plan((6, 5), strides=((1, 1),))
    plan = stylegan2.derive(unet, StyleGan2Config(max_channels=8))
    generator = Generator(plan)
    images = generator(torch.randn(2, plan.latent_size), _noises(generator, 2))
    assert Discriminator(plan)(images).shape == (2,)
    network = Denoiser(flow.derive(unet, FlowConfig(max_channels=8)))
    assert network(images, torch.rand(2)).shape == images.shape


def test_fresh_networks_keep_the_scale_of_what_passes_through():
    torch.manual_seed(0)
    plan = stylegan2.derive(unet_plan((64, 48), channels=3), StyleGan2Config(max_channels=32))
    generator, discriminator = Generator(plan), Discriminator(plan)
    images = generator(torch.randn(16, plan.latent_size), _noises(generator, 16))
    assert 0.3 < float(images.detach().std()) < 5
    # Of one value a channel, because noise would rightly be filtered away.
    features = discriminator.blocks(torch.randn(4, 32, 1, 1).expand(-1, -1, 64, 48))
    assert 0.3 < float(features.detach().std()) < 3


def test_bfloat16_networks_give_nearly_the_same():
    torch.manual_seed(1)
    plan = tiny_stylegan2(3)
    exact, fast = Generator(plan), Generator(plan, torch.bfloat16)
    fast.load_state_dict(exact.state_dict())
    latents, noises = torch.randn(4, plan.latent_size), _noises(exact, 4)
    images = exact(latents, noises)
    assert (fast(latents, noises) - images).abs().mean() < 0.03 * images.abs().mean()
    judge, fast_judge = Discriminator(plan), Discriminator(plan, torch.bfloat16)
    fast_judge.load_state_dict(judge.state_dict())
    torch.testing.assert_close(fast_judge(images), judge(images), atol=0.05, rtol=0.05)


def test_the_spread_channel_is_the_mean_deviation_within_groups_of_four():
    x = torch.randn(8, 3, 4, 2, dtype=torch.float64)
    out = minibatch_spread(x)
    assert out.shape == (8, 4, 4, 2)
    for group in range(2):
        members = x[group::2]
        expected = members.std(0, correction=0).mean()
        torch.testing.assert_close(out[group::2, 3], expected.expand(4, 4, 2), atol=1e-6, rtol=1e-6)


def test_batches_that_are_judged_together_have_their_own_logits():
    discriminator = Discriminator(tiny_stylegan2())
    first, second = torch.randn(2, 8, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    together = discriminator(torch.cat([first, second]), batches=2)
    alone = torch.cat([discriminator(first), discriminator(second)])
    torch.testing.assert_close(together, alone)
    mixed = discriminator(torch.cat([first, second]))
    assert (mixed - alone).abs().max() > 1e-4  # the spread is seen


def test_the_flow_starts_as_the_zero_function():
    plan = tiny_flow(2)
    out = Denoiser(plan)(torch.randn(2, 2, *plan.padded_size), torch.rand(2))
    assert torch.count_nonzero(out) == 0
