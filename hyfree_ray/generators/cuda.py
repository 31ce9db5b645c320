"""What a training on CUDA gets besides: tuned convolutions, and compiled phases that are checked.

Compiled code is used only after it has moved the weights as the eager code does, on the machine
where it will run; a training goes on without it otherwise.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hyfree_ray.core.processes import keep_freed_memory

COMPILE_FROM = 100_000
"""Images shown from which minutes of compiling are taken to pay."""
REHEARSALS = 3
"""Runs of a phase before its gradients are compared: where CUDA graphs are used, the first is a
warm-up, the second is recorded and the third is the first replay."""
TOLERANCE = 0.1
"""Largest distance of compiled gradients from eager ones, over the latter's length: several times
what bfloat16's rounding makes in networks of full width, far below what wrong gradients would be.
In networks of 16 channels rounding alone reaches it at times: these then go on without, slower."""
STIR = 0.05
"""Standard deviation of what is added to weights while gradients are compared."""

Phase = Callable[[int], Tensor]
"""A loss of the networks as they are, for the batch and the randomness of a seed."""

_log = logging.getLogger(__name__)


def tune(device: torch.device) -> None:
    """Prepare for a network whose shapes never change.

    cuDNN times its kernels and keeps the fastest; on a CPU freed memory is kept for the next step.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()


@contextmanager
def _stirred(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Weights with some noise, put back afterwards: fresh ones are zero where a gradient ends."""
    kept = [parameter.detach().clone() for parameter in parameters]
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=random)
            parameter.add_(STIR * noise.to(parameter.device))
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)


def _gradients(phase: Phase, seed: int, parameters: Sequence[nn.Parameter]) -> Tensor:
    """A phase's gradients by all parameters, one after the other; the parameters end without."""
    phase(seed).backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    joint = torch.cat([slope.flatten().float() for slope in slopes])
    for parameter in parameters:
        parameter.grad = None
    return joint


def compiled_like_eager(
    compile_phases: Callable[[], None],
    phases: Sequence[Phase],
    parameters: Sequence[nn.Parameter],
) -> bool:
    """Compile, and say whether the phases have the gradients that they had before.

    If not, or if compiling fails, one line is logged, and the caller has to go back to eager code.

    Args:
        compile_phases: makes `phases` run compiled code from then on.
        parameters: what the phases' gradients are compared by.
    """
    with _stirred(parameters):
        expected = [_gradients(phase, REHEARSALS - 1, parameters) for phase in phases]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's, of its own ways
                compile_phases()
                for phase, eager in zip(phases, expected, strict=True):
                    found = [_gradients(phase, seed, parameters) for seed in range(REHEARSALS)]
                    apart = float((found[-1] - eager).norm() / eager.norm())
                    if not apart <= TOLERANCE:
                        raise ArithmeticError(f"gradients are {apart:.0%} off the eager ones")
        except Exception as error:  # whatever a compiler, or the lack of one, raises
            reason = " ".join(str(error).split())[:200]
            _log.warning("torch.compile failed; training continues without it: %s", reason)
            return False
    return True
