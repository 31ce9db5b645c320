"""StyleGAN2's main phases compiled. Without a GPU: by the compiler's front half, on the CPU."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from hyfree_ray.generator_plan import GeneratorPlan
from hyfree_ray.generators.loop import compute_of
from hyfree_ray.generators.stylegan2.train import COMPILE_FROM, StyleGan2Learner
from tests.generators.plans import unet_plan

PARTS = ("generator", "discriminator")
SIZE = (13, 10)


def _learner(images_shown: int = 1) -> StyleGan2Learner:
    torch.manual_seed(0)
    plan = GeneratorPlan.derive(unet_plan(SIZE, strides=((1, 1), (2, 1))), max_channels=8)
    learner = StyleGan2Learner(plan, compute_of("cpu", "fp32"), images_shown=images_shown)
    with torch.no_grad():
        for convolution in learner.generator.synthesis.convolutions:
            convolution.noise_strength.fill_(0.3)
    return learner


def _images(random: torch.Generator) -> Tensor:
    return torch.rand(8, 1, *SIZE, generator=random) * 2 - 1


def _gradients(learner: StyleGan2Learner) -> dict[str, Tensor]:
    """Loss of each main phase, and its gradients in whatever it moves."""
    random = torch.Generator().manual_seed(2)
    images_NCHW = _images(random)
    found = {}
    for phase, loss in (
        ("generator", lambda: learner._generator_loss(random)),
        ("discriminator", lambda: learner._discriminator_loss(images_NCHW, random)),
    ):
        value = loss()
        value.backward()
        found[phase] = value.detach()
        for part in PARTS:
            for name, parameter in getattr(learner, part).named_parameters():
                if parameter.grad is not None:
                    found[f"{phase}: {part}.{name}"] = parameter.grad
                    parameter.grad = None
    return found


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5 * scale, msg=name)


def test_compiled_phases_have_the_losses_and_gradients_of_the_eager_ones() -> None:
    plain, compiled = _learner(), _learner()
    compiled.compile("aot_eager")
    assert compiled._paint is not compiled.generator.synthesis
    assert compiled._judge is not compiled.discriminator
    assert all(p.grad is None for part in PARTS for p in getattr(compiled, part).parameters())
    expected = _gradients(plain)
    _assert_same(_gradients(compiled), expected)
    for phase in PARTS:
        assert any(name.startswith(f"{phase}: {phase}") for name in expected)
    # A whole step with both penalties, which differentiate twice.
    steps = []
    for learner in (plain, compiled):
        random = torch.Generator().manual_seed(1)
        steps.append(learner.step(_images(random), 0, random))
    assert set(steps[0]) == {"generator", "path_length", "discriminator", "r1"}
    _assert_same(steps[1], steps[0])


def test_a_compiler_that_fails_is_told_in_one_line_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> None:
        raise OSError("no compiler\nlong trace")

    said: list[str] = []
    log = logging.getLogger("hyfree_ray.generators.stylegan2.train")
    monkeypatch.setattr(log, "warning", lambda line, *rest: said.append(line % rest))
    learner = _learner()
    learner.compile(broken)
    assert len(said) == 1
    assert said[0].startswith("torch.compile failed, training goes on without it: ")
    assert "no compiler" in said[0]
    assert "\n" not in said[0]
    _assert_same(_gradients(learner), _gradients(_learner()))


def test_on_a_cpu_nothing_is_compiled_however_long_the_training() -> None:
    learner = _learner(images_shown=COMPILE_FROM)
    assert learner._paint is learner.generator.synthesis
    assert learner._judge is learner.discriminator
