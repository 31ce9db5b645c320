from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.stylegan3 import filters
from hyfree_ray.generators.stylegan3.config import StyleGan3Config
from hyfree_ray.generators.stylegan3.equivariance import translation_equivariance
from hyfree_ray.generators.stylegan3.networks import Balanced, FourierFeatures, Generator
from hyfree_ray.generators.stylegan3.plan import Layer, derive
from hyfree_ray.generators.stylegan3.train import StyleGan3Learner
from tests.generators.plans import tiny, tiny_unet, unet_plan


def _layer(size, rate, *, channels=6, cutoff=(2.0, 2.0), half_width=(2.29, 2.29)):
    return Layer(
        size=size, rate=rate, cutoff=cutoff, half_width=half_width, channels=channels, kernel=(3, 3)
    )


def test_rates_cutoffs_and_sizes_are_the_papers_at_its_sizes():
    for side, starts in ((64, {16: 0, 32: 4, 64: 8}), (128, {16: 0, 32: 3, 64: 6, 128: 9})):
        strides = ((1, 1), *((2, 2),) * round(math.log2(side / 4)))
        plan = derive(unet_plan((side, side), strides=strides), StyleGan3Config())
        for number in range(15):
            layer = plan.layer(number)
            share = min(number / 12, 1)
            assert layer.cutoff[0] == pytest.approx(2 * (side / 4) ** share)
            stop = 2**2.1 * (side / 2 * 2**0.3 / 2**2.1) ** share
            rate = max(rate for rate, start in starts.items() if number >= start)
            assert layer.rate == (rate, rate)
            assert layer.half_width[1] == pytest.approx(max(stop, rate / 2) - layer.cutoff[1])
            assert layer.size[0] == (side if number >= 13 else rate + 20)
            wanted = round(min(16384 / layer.cutoff[0], 512))
            assert layer.channels == (1 if number == 14 else wanted)


def test_each_axis_has_a_rate_of_its_own_and_kernels_are_the_levels():
    unet = replace(tiny_unet(), kernel_sizes=((3, 3), (1, 3), (3, 1), (5, 3)))
    plan = derive(unet, StyleGan3Config(max_channels=8, layers=6))
    layers = [plan.layer(number) for number in range(7)]
    # Levels are 24x20, 12x10, 6x10 and 6x5; an axis of 24 needs 12 at first, one of 20 needs 10.
    rates = [layer.rate for layer in layers]
    assert rates == sorted(rates)
    assert list(dict.fromkeys(rates)) == [(12, 10), (12, 20), (24, 20)]
    assert layers[0].kernel == (1, 3)
    assert layers[-1].kernel == (3, 3)
    assert layers[0].cutoff == (2.0, 2.0)
    assert layers[-1].cutoff == pytest.approx((12, 10))


@pytest.mark.parametrize(
    ("factor", "cutoff", "half_width", "rate"),
    [(2, 2.0, 6.0, 32), (4, 2.0, 6.0, 64), (2, 32.0, 7.4, 128), (2, 20.0, 1.0, 64)],
)
def test_filters_are_sincs_in_kaisers_window(factor, cutoff, half_width, rate):
    taps = filters.low_pass(factor, cutoff, half_width, rate)
    count = 6 * factor
    attenuation = 2.285 * (count - 1) * math.pi * (2 * half_width) / (rate / 2) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    place = np.arange(count) - (count - 1) / 2
    expected = np.sinc(2 * cutoff / rate * place) * np.kaiser(count, beta)
    np.testing.assert_allclose(taps, expected / expected.sum(), atol=1e-12)
    assert np.array_equal(filters.low_pass(1, cutoff, half_width, rate), [1.0])


def test_slow_waves_pass_both_ways_unchanged_and_in_place():
    before, after = _layer((36, 32), (16, 12)), _layer((52, 44), (32, 24), cutoff=(4.0, 3.0))
    for axis in (0, 1):
        samples = before.size[axis] + 2
        up, down = filters.resampling(before, after, axis, samples)
        came = (np.arange(samples) - (samples - 1) / 2) / before.rate[axis]
        goes = (np.arange(after.size[axis]) - (after.size[axis] - 1) / 2) / after.rate[axis]
        inner = slice(10, -10)
        assert np.abs(down @ (up @ came) - goes)[inner].max() < 1e-3, "in place"
        assert np.abs(down @ (up @ np.ones(samples)) - 1)[inner].max() < 0.02
        slow = [np.cos(np.pi / 2 * place) for place in (came, goes)]
        assert np.abs(down @ (up @ slow[0]) - slow[1])[inner].max() < 0.03
        assert up.shape[0] == down.shape[1]


def test_a_leaky_relu_between_filters_makes_no_pixel_grid():
    """Against one by pixel, whose output is not what a moved input's is when moved."""
    layer = _layer((64, 64), (16, 16), cutoff=(4.0, 4.0), half_width=(4.0, 4.0))
    where = filters.places(layer.size, layer.rate)[..., 0]
    moved = 0.5 / 16

    def wave(place):
        return torch.sin(2 * math.pi * 3.3 * place)[None, None]

    def spectrum(image):
        return torch.fft.rfft(image[0, 0, 8:-8, 32] * torch.hann_window(48)).abs()

    found, plain = [], []
    for place in (where, where - moved):
        found.append(spectrum(filters.filtered_activation(wave(place), layer, layer)))
        plain.append(spectrum(F.leaky_relu(wave(place), 0.2) * math.sqrt(2)))
    filtered, pixelwise = (float((a - b).norm() / a.norm()) for a, b in (found, plain))
    assert filtered < 0.3 * pixelwise


def _features(size=(40, 28), rate=(20, 14), channels=12):
    torch.manual_seed(0)
    return FourierFeatures(_layer(size, rate, channels=channels), 8, rate)


def test_a_shift_of_the_features_is_theirs():
    features = _features()
    turn = torch.tensor([[1.0, 0.0]])
    here = features.waves(turn, torch.zeros(1, 2))
    there = features.waves(turn, torch.tensor([[3 / 20, -2 / 14]]))
    torch.testing.assert_close(there[:, :, 3:, :-2], here[:, :, :-3, 2:], atol=1e-5, rtol=1e-5)


def test_a_quarter_turn_of_the_features_is_theirs_about_the_middle():
    features = _features((30, 30), (15, 15))
    nothing = torch.zeros(1, 2)
    here = features.waves(torch.tensor([[1.0, 0.0]]), nothing)
    turned = features.waves(torch.tensor([[0.0, 1.0]]), nothing)
    candidates = [torch.rot90(here, k, (2, 3)) for k in (1, 3)]
    assert min(float((turned - one).abs().max()) for one in candidates) < 1e-4


def test_a_turn_keeps_lengths_where_the_sides_differ():
    """A half turn maps each place to its opposite; an eighth keeps the wave's length in pixels."""
    features = _features()
    half = features.waves(torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2))
    here = features.waves(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    torch.testing.assert_close(half, here.flip((2, 3)), atol=1e-4, rtol=1e-4)


def test_waves_fade_out_towards_half_of_the_rate():
    features = FourierFeatures(_layer((9, 9), (5, 5), channels=4), 8, (5, 5))
    features.frequencies.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.25, 0.0], [0.0, 2.5]]))
    features.phases.fill_(0.25)
    waves = features.waves(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))[0]
    # At the middle each is 1 times what is left of it.
    torch.testing.assert_close(waves[:, 4, 4], torch.tensor([1.0, 1.0, 0.5, 0.0]))


def test_frequencies_are_uniform_in_a_disc_and_fresh_features_lie_as_they_are():
    torch.manual_seed(0)
    points = filters.disc(20_000, 2.0)
    assert float(points.norm(dim=1).max()) <= 2
    assert float(points.square().sum(1).mean()) == pytest.approx(2, rel=0.03)
    assert float((points.norm(dim=1) < 1).float().mean()) == pytest.approx(0.25, abs=0.02)
    features = _features()
    w = torch.randn(3, 8)
    with torch.no_grad():
        found = features(w)
        assert torch.equal(found[0], found[1])
        mix = features.mix / math.sqrt(12)
        waves = features.waves(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))[0]
        torch.testing.assert_close(found[0], torch.einsum("oc,chw->ohw", mix, waves))
        features.affine.bias.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0]))
        torch.testing.assert_close(features(w), found)


def test_a_layer_divides_by_the_running_magnitude_and_only_training_moves_it():
    balance = Balanced()
    for _ in range(8000):
        factor = balance(torch.full((2, 3, 4, 5), 3.0))
    assert float(factor) == pytest.approx(1 / 3, rel=1e-2)
    balance.eval()
    before = balance.energy.clone()
    balance(torch.full((2, 3, 4, 5), 100.0))
    assert torch.equal(balance.energy, before)


def test_magnitudes_travel_with_the_weights():
    learner = StyleGan3Learner(tiny("stylegan3"), compute_of("cpu", "fp32"))
    learner.step(torch.rand(8, 1, 24, 20) * 2 - 1, 0, torch.Generator().manual_seed(0))
    energies = [v for name, v in learner.averaged().items() if name.endswith("energy")]
    assert len(energies) == 5
    assert all(float(energy) != 1 for energy in energies)


def test_parameters_are_those_of_the_formula():
    plan = derive(unet_plan((64, 64), channels=3), StyleGan3Config(max_channels=32))
    c, z, layers = 32, 128, 14
    mapping, enter = 2 * (z * z + z), z * 4 + 4 + c * c
    convolution = (z * c + c) + 9 * c * c + c
    image = (z * c + c) + 3 * c + 3
    found = sum(parameter.numel() for parameter in Generator(plan).parameters())
    assert found == mapping + enter + layers * convolution + image


def test_a_fresh_generator_keeps_the_scale_of_what_passes_through():
    torch.manual_seed(0)
    generator = Generator(derive(unet_plan((64, 48)), StyleGan3Config(max_channels=32, layers=8)))
    with torch.no_grad():
        images = generator(torch.randn(8, 128), [])
    assert images.shape == (8, 1, 64, 48)
    assert 0.05 < float(images.std()) < 1


def test_what_is_drawn_moves_with_the_input_to_45_decibels():
    torch.manual_seed(0)
    unet = unet_plan((48, 40), channels=2, strides=((1, 1), (2, 2), (2, 1), (1, 2)))
    generator = Generator(derive(unet, StyleGan3Config(max_channels=16, layers=8))).eval()
    assert translation_equivariance(generator, images=4, moves=[(3, 0), (0, -5), (4, 3)]) > 45
