from __future__ import annotations

import math

import torch

from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.adversarial.augment import augment
from hyfree_ray.generators.adversarial.learner import adam
from hyfree_ray.generators.average import Average, keep_share
from hyfree_ray.generators.stylegan2.networks import Discriminator, Generator
from tests.generators.plans import tiny_stylegan2


def _double_networks(channels: int = 2) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    plan = tiny_stylegan2(channels, (11, 14))
    return Generator(plan, torch.float64).double(), Discriminator(plan, torch.float64).double()


def test_r1_is_the_squared_slope_by_finite_differences():
    _, discriminator = _double_networks()
    images = torch.randn(2, 2, 11, 14, dtype=torch.float64)
    # The spread channel couples the images; one at a time, it is constant.
    penalty = sum(loss.r1_penalty(image[None], discriminator) for image in images) / 2
    total, step = 0.0, 1e-6
    with torch.no_grad():
        for image in images:
            moves = torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape) * step
            for move in moves:
                rise = discriminator(image[None] + move) - discriminator(image[None] - move)
                total += float(rise / (2 * step)) ** 2
    assert math.isclose(float(penalty.detach()), total / 2 * 10 / 2, rel_tol=1e-5)


def _check_gradient(value, parameter) -> None:
    """Compare the slope along a random direction with finite differences."""
    (slope,) = torch.autograd.grad(value(), parameter)
    direction = torch.randn_like(parameter)
    step = 1e-6
    with torch.no_grad():
        parameter += step * direction
    above = float(value().detach())
    with torch.no_grad():
        parameter -= 2 * step * direction
    below = float(value().detach())
    with torch.no_grad():
        parameter += step * direction
    expected = (above - below) / (2 * step)
    assert math.isclose(float((slope * direction).sum()), expected, rel_tol=1e-4, abs_tol=1e-9)


def test_gradients_of_r1_in_the_weights_are_right_by_finite_differences():
    _, discriminator = _double_networks()
    images = torch.randn(4, 2, 11, 14, dtype=torch.float64)

    def value():
        random = torch.Generator().manual_seed(1)
        return loss.r1_penalty(images, lambda x: discriminator(augment(x, random)))

    _check_gradient(value, discriminator.enter)
    _check_gradient(value, discriminator.blocks[1].second)
    _check_gradient(value, discriminator.hidden.weight)


def test_gradients_of_the_path_length_in_the_weights_are_right_by_finite_differences():
    generator, _ = _double_networks()
    synthesis = generator.synthesis
    z = torch.randn(3, generator.mapping.layers[0].weight.shape[1], dtype=torch.float64)
    noises = [torch.randn(3, 1, *size, dtype=torch.float64) for size in synthesis.noise_sizes]
    noise = torch.randn(3, 2, 11, 14, dtype=torch.float64)
    mean = torch.tensor(0.3, dtype=torch.float64)

    def value():
        w = generator.mapping(z)[:, None].expand(-1, synthesis.layers, -1)
        lengths = loss.path_lengths(w, synthesis(w, noises), noise)
        # The running mean is a constant for the gradient: keep it one for the differences too.
        return (lengths - mean).square().mean() * 2

    _check_gradient(value, synthesis.convolutions[1].weight)
    _check_gradient(value, synthesis.convolutions[0].affine.weight)
    _check_gradient(value, synthesis.to_images[1].weight)


def test_path_lengths_are_norms_of_the_jacobians_product():
    w = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(2 * 5 * 6, 12, dtype=torch.float64)
    images = (w.flatten(1) @ maps.T).view(2, 2, 5, 6)
    noise = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    lengths = loss.path_lengths(w, images, noise)
    products = noise.flatten(1) @ maps / math.sqrt(30)
    expected = (products.view(2, 3, 4).square().sum(2)).mean(1).sqrt()
    torch.testing.assert_close(lengths, expected)


def test_the_path_penalty_follows_its_running_mean():
    lengths = torch.tensor([1.0, 3.0])
    penalty, mean = loss.path_penalty(lengths, torch.tensor(1.0))
    assert math.isclose(float(mean), 1 + 0.01 * (2 - 1), rel_tol=1e-6)
    expected = 2 * ((1 - 1.01) ** 2 + (3 - 1.01) ** 2) / 2
    assert math.isclose(float(penalty), expected, rel_tol=1e-5)


def test_logistic_losses_are_their_formulas():
    real, fake = torch.tensor([0.3, -2.0]), torch.tensor([1.5, -0.2])
    sigmoid = torch.sigmoid
    torch.testing.assert_close(loss.generator_loss(fake), -sigmoid(fake).log().mean())
    torch.testing.assert_close(
        loss.discriminator_loss(real, fake),
        -sigmoid(real).log().mean() - (1 - sigmoid(fake)).log().mean(),
    )


def test_lazy_regularisation_scales_rate_and_betas():
    lazy = adam(torch.nn.Linear(2, 2), 0.002, every=16)
    assert math.isclose(lazy.defaults["lr"], 0.002 * 16 / 17)
    assert lazy.defaults["betas"] == (0.0, 0.99 ** (16 / 17))


def test_the_average_has_its_half_life_and_its_ramp_up():
    late, batch = 1_000_000, 8
    assert math.isclose(keep_share(late, batch) ** (10_000 / batch), 0.5)
    assert math.isclose(keep_share(1000, batch), 0.5 ** (8 / 50))
    assert keep_share(8, batch) < 1e-5


def test_the_average_follows_its_formula_step_by_step():
    torch.manual_seed(0)
    module, batch = torch.nn.Linear(3, 2), 8
    average = Average(module)
    expected = {name: value.detach().double() for name, value in module.named_parameters()}
    for step in range(1, 41):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        average.update(step * batch, batch)
        kept = 0.5 ** (batch / min(10_000, 0.05 * step * batch))
        for name, value in module.named_parameters():
            assert torch.equal(value, before[name]), "the module itself is left alone"
            expected[name] = kept * expected[name] + (1 - kept) * value.detach().double()
    assert average.weights.keys() == expected.keys()
    for name, value in expected.items():
        assert float((value - before[name]).abs().max()) > 0.1, "it lags behind"
        torch.testing.assert_close(average.weights[name].double(), value, rtol=1e-5, atol=1e-6)
