"""Compiled phases of both generators. Without a GPU: by the compiler's front half, on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyfree_ray.generators.cuda import COMPILE_FROM, REHEARSALS
from hyfree_ray.generators.flow.learner import FlowLearner
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from hyfree_ray.generators.stylegan2.plan import derive
from hyfree_ray.generators.stylegan2.train import StyleGan2Learner
from tests.generators.plans import tiny_flow, unet_plan

PARTS = ("generator", "discriminator")
SIZE = (13, 10)


def _learner(images_shown: int = 1) -> StyleGan2Learner:
    torch.manual_seed(0)
    plan = derive(unet_plan(SIZE, strides=((1, 1), (2, 1))), StyleGan2Config(max_channels=8))
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
    images_NCHW, fake_NCHW = _images(random), _images(random)
    found = {}
    for phase, loss in (
        ("generator", lambda: learner._generator_loss(learner._fakes(random), random)),
        ("discriminator", lambda: learner._discriminator_loss(images_NCHW, fake_NCHW, random)),
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
    assert compiled.compiled
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


def _flow(images_shown: int = 1600, precision: str = "fp32") -> FlowLearner:
    torch.manual_seed(0)
    return FlowLearner(tiny_flow(2), compute_of("cpu", precision), images_shown=images_shown)


def _walk(learner: FlowLearner, steps: int) -> dict[str, Tensor]:
    """Each step's loss, the last step's gradients, and the average that they lead to."""
    random = torch.Generator().manual_seed(1)
    found = {}
    for step in range(steps):
        images_NCHW = torch.rand(16, 2, 24, 20, generator=random) * 2 - 1
        found[f"loss {step}"] = learner.step(learner.prepare(images_NCHW), step, random)["loss"]
    for name, parameter in learner.network.named_parameters():
        assert parameter.grad is not None
        found[f"gradient {name}"] = parameter.grad
    return found | {f"average {name}": value for name, value in learner.averaged().items()}


def test_a_compiled_flow_has_the_losses_gradients_and_average_of_the_eager_one() -> None:
    plain, compiled = _flow(), _flow()
    compiled.compile("aot_eager")
    assert compiled.compiled
    assert not plain.compiled
    assert all(parameter.grad is None for parameter in compiled.network.parameters())
    for name, parameter in plain.network.named_parameters():
        assert torch.equal(compiled.network.get_parameter(name), parameter), "weights were kept"
    _assert_same(_walk(compiled, 4), _walk(plain, 4))


def test_a_compiled_flow_in_bf16_learns_what_the_eager_one_does() -> None:
    plain, compiled = _flow(precision="bf16"), _flow(precision="bf16")
    compiled.compile("aot_eager")
    assert compiled.compiled
    found, expected = _walk(compiled, 2), _walk(plain, 2)
    assert float(found["loss 1"]) == pytest.approx(float(expected["loss 1"]), rel=1e-2)


def _slightly_wrong(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """A compiler whose code has the right shapes and values that are a third too large."""
    return lambda *values: [
        1.3 * out if isinstance(out, Tensor) and out.requires_grad else out
        for out in graph(*values)
    ]


@pytest.mark.parametrize("make", [_learner, _flow])
def test_compiled_code_that_computes_something_else_is_not_used(
    make: Callable[[], StyleGan2Learner | FlowLearner], said: list[str]
) -> None:
    learner = make()
    learner.compile(_slightly_wrong)
    assert not learner.compiled
    assert len(said) == 1
    assert "off the eager ones" in said[0]


def test_graphs_that_are_wrong_only_when_replayed_are_not_used(said: list[str]) -> None:
    """As a CUDA graph would be that reads memory which something else has taken."""
    runs = []

    def replaying(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        def run(*values: Tensor) -> Any:
            runs.append(1)
            outs = graph(*values)
            return outs if len(runs) < REHEARSALS else [2 * out for out in outs]

        return run

    learner = _flow()
    learner.compile(replaying)
    assert len(runs) == REHEARSALS
    assert not learner.compiled
    assert len(said) == 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged as a warning."""
    lines: list[str] = []
    log = logging.getLogger("hyfree_ray.generators.cuda")
    monkeypatch.setattr(log, "warning", lambda line, *rest: lines.append(line % rest))
    return lines


@pytest.mark.parametrize("make", [_learner, _flow])
def test_a_compiler_that_fails_is_told_in_one_line_and_done_without(
    make: Callable[[], StyleGan2Learner | FlowLearner], said: list[str]
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> None:
        raise OSError("no compiler\nlong trace")

    learner = make()
    learner.compile(broken)
    assert not learner.compiled
    assert len(said) == 1
    assert said[0].startswith("torch.compile failed; training continues without it: ")
    assert "no compiler" in said[0]
    assert "\n" not in said[0]
    if isinstance(learner, FlowLearner):
        _assert_same(_walk(learner, 1), _walk(_flow(), 1))
    else:
        _assert_same(_gradients(learner), _gradients(_learner()))


@pytest.mark.parametrize("make", [_learner, _flow])
def test_on_a_cpu_nothing_is_compiled_however_long_the_training(
    make: Callable[[int], StyleGan2Learner | FlowLearner],
) -> None:
    assert not make(COMPILE_FROM).compiled
