"""Progressive growing, and the generators that grow."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import growing, loss
from hyfree_ray.generators.adversarial.layers import Convolution, Mapping, unit
from hyfree_ray.generators.adversarial.plan import batch_at, grown
from hyfree_ray.generators.progan import networks as progan
from hyfree_ray.generators.progan.config import ProGanConfig
from hyfree_ray.generators.progan.plan import derive as derive_progan
from hyfree_ray.generators.progan.train import ProGanLearner
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.stylegan1 import networks as stylegan1
from hyfree_ray.generators.stylegan1.config import StyleGan1Config
from hyfree_ray.generators.stylegan1.plan import derive as derive_stylegan1
from hyfree_ray.generators.stylegan1.train import StyleGan1Learner, rate_at
from tests.generators.plans import tiny, tiny_unet, unet_plan

CPU = compute_of("cpu", "fp32")
UNET = tiny_unet(2, (24, 20))
SIZES = [(24, 20), (12, 10), (6, 10), (6, 5)]


def _parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def _progan(depth=None):
    torch.manual_seed(0)
    generator = progan.Generator(tiny("progan", UNET))
    if depth is not None:
        generator.grow(depth)
    return generator


def test_weights_are_scaled_where_they_are_used_so_that_all_learn_at_one_rate():
    torch.manual_seed(0)
    wide, narrow = Convolution(64, 32, (3, 5)), Convolution(2, 32, (1, 1))
    for layer, inputs in ((wide, 64), (narrow, 2)):
        assert float(layer.weight.detach().std()) == pytest.approx(1, rel=0.3)
        out = layer(torch.randn(4, inputs, 40, 30))
        assert float(out.detach().std()) == pytest.approx(math.sqrt(2), rel=0.2)
    # A step of Adam moves the weights that are used by rate x gain / sqrt(inputs of an output).
    adam = torch.optim.Adam(wide.parameters(), lr=0.01, betas=(0.0, 0.99))
    x = torch.randn(2, 64, 10, 10)
    before = wide(x).detach()
    wide(x).sum().backward()
    adam.step()
    moved = F.conv2d(x, torch.sign(wide.weight.grad), padding=(1, 2)) * 0.01 * math.sqrt(2 / 960)
    torch.testing.assert_close(before - wide(x), moved + 0.01, atol=1e-4, rtol=1e-3)


def test_pixels_have_unit_mean_square_over_channels():
    x = 7 * torch.randn(3, 5, 4, 6, dtype=torch.float64)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    torch.testing.assert_close(unit(x), expected)
    assert float((unit(x.bfloat16()).float() - expected).abs().max()) < 0.03


def test_a_new_level_is_faded_in_as_the_enlarged_old_image_fades_out():
    generator = _progan()
    z = torch.randn(2, generator._plan.latent_size)
    with torch.no_grad():
        for coarse in (1, 2, 3):
            images = {}
            for depth in (coarse, coarse - 1 + 1e-6, coarse - 0.75, coarse - 1):
                generator.grow(depth)
                images[depth] = generator.grown_images(z)
            old = F.interpolate(images[coarse], SIZES[coarse - 1])
            new = images[coarse - 1]
            assert new.shape[2:] == SIZES[coarse - 1]
            torch.testing.assert_close(images[coarse - 0.75], 0.25 * old + 0.75 * new)
            torch.testing.assert_close(images[coarse - 1 + 1e-6], new, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("softened", [False, True])
def test_the_discriminator_fades_alike_and_sees_no_jump_when_a_level_comes(softened):
    torch.manual_seed(0)
    plan = tiny("progan", UNET)
    judge = growing.GrowingDiscriminator(plan, torch.float32, softened=softened)
    images = torch.randn(4, 2, *SIZES[1])
    with torch.no_grad():
        judge.grow(1.0)
        whole = judge(images)
        judge.grow(2.0)
        old = judge(growing.shrink(images, plan.strides[1]))
        judge.grow(1.999)
        torch.testing.assert_close(judge(images), old, atol=0.02, rtol=0.02)
        judge.grow(1.001)
        torch.testing.assert_close(judge(images), whole, atol=0.02, rtol=0.02)
    assert (whole - old).abs().max() > 0.05


def test_real_images_are_pooled_and_blended_alike():
    learner = ProGanLearner(tiny("progan", UNET), CPU)
    images = learner.prepare(torch.randn(4, 2, 24, 20))
    learner.discriminator.grow(1.25)
    half = F.avg_pool2d(images, (2, 2))
    blocky = F.interpolate(F.avg_pool2d(half, (2, 1)), SIZES[1])
    torch.testing.assert_close(learner._seen(images), 0.75 * half + 0.25 * blocky)
    learner.discriminator.grow(0.0)
    assert torch.equal(learner._seen(images), images)


def test_depth_grows_by_a_level_in_two_phases_and_stays_at_full_size():
    plan = grown(tiny("progan", UNET), None, images=1, images_shown=12_000)
    assert (plan.first_level, plan.phase_images, plan.batch_size) == (3, 1000, 8)
    at = {0: 3, 999: 3, 1250: 2.75, 2000: 2, 2999: 2, 3500: 1.5, 6000: 0, 11_999: 0}
    assert {shown: plan.depth(shown) for shown in at} == pytest.approx(at)
    long = grown(tiny("progan", UNET), None, images=1, images_shown=100_000_000)
    assert long.phase_images == 600_000
    assert [batch_at((side, side)) for side in (4, 16, 32, 64, 128, 256, 1024)] == [
        *(128, 128, 64, 32, 16, 8, 8)
    ]


@pytest.mark.parametrize("learner_of", [ProGanLearner, StyleGan1Learner])
def test_the_optimisers_begin_anew_with_each_level_and_only_then(learner_of):
    name = "progan" if learner_of is ProGanLearner else "stylegan1"
    plan = grown(tiny(name, UNET), None, images=1, images_shown=2 * 8 * 12)
    learner = learner_of(plan, CPU)
    images = learner.prepare(torch.rand(8, 2, 24, 20) * 2 - 1)
    random, anew, finest = torch.Generator(), [], []
    for step in range(24):
        before = learner._generator_adam
        learner.step(images, step, random)
        finest.append(learner.discriminator.finest)
        anew.append(learner._generator_adam is not before)
    assert finest[-1] == 0
    changes = [now != then for then, now in zip([plan.first_level, *finest], finest, strict=False)]
    assert anew == changes


def test_images_are_low_pass_filtered_by_a_triangle_of_the_stride():
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    for stride, taps in (((2, 1), [[1, 2, 1], [1]]), ((2, 3), [[1, 2, 1], [1, 2, 3, 2, 1]])):
        rows, columns = (torch.tensor(t, dtype=x.dtype) / sum(t) for t in taps)
        kernel = (rows[:, None] * columns).expand(3, 1, -1, -1)
        padding = [len(t) // 2 for t in taps]
        expected = F.conv2d(x, kernel, padding=padding, groups=3)
        torch.testing.assert_close(growing.soften(x, stride), expected)


def test_the_gradient_penalty_asks_for_a_slope_of_one_between_the_images():
    slope = torch.randn(2, 5, 4, dtype=torch.float64)
    real, fake = torch.randn(2, 6, 2, 5, 4, dtype=torch.float64)
    share = torch.rand(6, dtype=torch.float64)
    penalty = loss.gradient_penalty(real, fake, share, lambda x: (x * slope).sum((1, 2, 3)))
    assert float(penalty.detach()) == pytest.approx(10 * (float(slope.norm()) - 1) ** 2)
    # Where the slope is that of |x|^2 / 2, its length is the image's: the points can be seen.
    penalty = loss.gradient_penalty(real, fake, share, lambda x: x.square().sum((1, 2, 3)) / 2)
    between = real + share[:, None, None, None] * (fake - real)
    lengths = between.flatten(1).norm(dim=1)
    assert float(penalty.detach()) == pytest.approx(float(10 * (lengths - 1).square().mean()))


def test_the_wasserstein_loss_keeps_real_logits_near_nothing():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 2.0])
    assert float(loss.wasserstein_loss(real, fake)) == pytest.approx(0.5 - 2 + 0.001 * 5)


@pytest.mark.parametrize("channels", [1, 5])
def test_parameters_of_progressive_gan_are_those_of_the_formula(channels):
    plan = derive_progan(unet_plan((64, 64), channels=channels), ProGanConfig(max_channels=32))
    c, z, levels = 32, 128, 4
    convolution, image = 9 * c * c + c, c * channels + channels
    generator = (z * c * 16 + c * 16) + convolution * (1 + 2 * levels) + image * (levels + 1)
    assert _parameters(progan.Generator(plan)) == generator
    judge = growing.GrowingDiscriminator(plan, torch.float32, softened=False)
    last = 9 * (c + 1) * c + c + (16 * c * c + c) + (c + 1)
    assert _parameters(judge) == (channels * c + c) * 5 + convolution * 2 * levels + last


def test_at_full_width_progressive_gan_has_the_papers_blocks():
    """Table 2 of Karras et al. 2018 to 16x16: 512 channels throughout."""
    unet = unet_plan((16, 16), channels=3, strides=((1, 1), (2, 2), (2, 2)))
    with torch.device("meta"):
        generator = progan.Generator(derive_progan(unet, ProGanConfig()))
    convolution = 9 * 512 * 512 + 512
    assert _parameters(generator) == 512 * 8192 + 8192 + 5 * convolution + 3 * (512 * 3 + 3)


def test_a_style_gives_each_feature_its_mean_and_spread():
    x = 3 + 2 * torch.randn(2, 4, 9, 7, dtype=torch.float64)
    scale, shift = torch.randn(2, 2, 4, dtype=torch.float64)
    out = stylegan1.adapt(x, scale, shift)
    torch.testing.assert_close(out.mean((2, 3)), shift)
    torch.testing.assert_close(out.std((2, 3), correction=0), scale.abs())


def test_noise_does_nothing_before_it_is_learnt_and_then_what_its_strength_says():
    torch.manual_seed(0)
    synthesis = stylegan1.Generator(tiny("stylegan1", UNET)).synthesis
    synthesis.grow(0.0)
    w = torch.randn(2, synthesis.layers, synthesis._plan.latent_size)
    draws = [[torch.randn(2, 1, *size) for size in synthesis.noise_sizes] for _ in range(2)]
    assert [tuple(noise.shape[2:]) for noise in draws[0]] == [
        size for size in reversed(SIZES) for _ in range(2)
    ]
    assert torch.equal(synthesis.constant, torch.ones_like(synthesis.constant))
    with torch.no_grad():
        first, second = (synthesis(w, draw) for draw in draws)
        torch.testing.assert_close(first, second)
        synthesis.styles[1].noise_strength.fill_(0.5)
        assert (synthesis(w, draws[0]) - synthesis(w, draws[1])).abs().max() > 1e-3


def test_truncation_draws_the_first_layers_to_the_mean_and_no_others():
    generator = stylegan1.Generator(tiny("stylegan1", unet_plan((64, 48))))
    generator.mean_w.fill_(2.0)
    w = torch.randn(3, 10, generator.mean_w.numel())
    found = generator.truncate(w)
    torch.testing.assert_close(found[:, :8], 2 + 0.7 * (w[:, :8] - 2))
    assert torch.equal(found[:, 8:], w[:, 8:])


def test_the_mean_w_follows_the_mapping():
    torch.manual_seed(0)
    learner = StyleGan1Learner(tiny("stylegan1", UNET), CPU)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(1500):
            learner._latents(8, random)
        expected = learner.generator.mapping(torch.randn(4096, learner._latent)).mean(0)
    found = learner.averaged()["mean_w"]
    assert float((found - expected).norm() / expected.norm()) < 0.2


def test_r1_counts_at_every_step_of_stylegan():
    learner = StyleGan1Learner(tiny("stylegan1", UNET), CPU)
    real, fake = torch.randn(2, 8, 2, *SIZES[learner.discriminator.finest])
    plain = super(StyleGan1Learner, learner)._discriminator_loss(
        real, fake, torch.Generator().manual_seed(0)
    )
    whole = learner._discriminator_loss(real, fake, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(0)
    super(StyleGan1Learner, learner)._discriminator_loss(real, fake, random)
    torch.testing.assert_close(whole, plain + learner._r1(real, random))


def test_stylegan_begins_at_eight_pixels_and_its_rate_follows_the_size():
    assert derive_stylegan1(unet_plan((64, 64)), StyleGan1Config()).first_level == 3
    assert derive_stylegan1(unet_plan((112, 112)), StyleGan1Config()).first_level == 3
    assert (
        derive_stylegan1(unet_plan((6, 5), strides=((1, 1),)), StyleGan1Config()).first_level == 0
    )
    assert [rate_at((side, side)) for side in (64, 128, 256)] == [1e-3, 1.5e-3, 2e-3]
    mapping = Mapping(16, 8)
    assert _parameters(mapping) == 8 * (16 * 16 + 16)


def test_parameters_of_stylegan_are_those_of_the_formula():
    plan = derive_stylegan1(unet_plan((64, 64), channels=3), StyleGan1Config(max_channels=32))
    c, z, levels = 32, 128, 4
    mapping, constant = 8 * (z * z + z), 16 * c
    styles = 2 * (levels + 1) * (2 * c + z * 2 * c + 2 * c)
    convolutions, images = 9 * c * c * (2 * levels + 1), (levels + 1) * (3 * c + 3)
    generator = stylegan1.Generator(plan)
    assert _parameters(generator) == mapping + constant + styles + convolutions + images


@pytest.mark.parametrize("name", ["progan", "stylegan1"])
def test_a_snapshot_taken_while_a_level_fades_in_is_drawn_from_as_it_was(name):
    from hyfree_ray.generators import GENERATORS

    plan = grown(tiny(name, UNET), None, images=1, images_shown=8 * 12 * 4)
    backend = GENERATORS[name].load()
    learner = backend.learner(plan, CPU, images_shown=8 * 12 * 4)
    images = learner.prepare(torch.rand(8, 2, 24, 20) * 2 - 1)
    for step in range(int(1.5 * plan.phase_images / 8) + 1):
        learner.step(images, step, torch.Generator().manual_seed(step))
    assert learner.discriminator.coarser_share > 0
    sampler = backend.sampler(plan, CPU, learner.averaged())
    with torch.no_grad():
        drawn = sampler([1, 2])
    assert drawn.shape == (2, 2, 24, 20)
    depth = next(value for key, value in learner.averaged().items() if key.endswith("depth"))
    assert float(depth) == learner.discriminator.finest + learner.discriminator.coarser_share
    if depth > 1:
        assert torch.equal(drawn[:, :, ::2, ::2], drawn[:, :, 1::2, 1::2]), "enlarged"
