"""What a generator's backend offers to the training loop. N images, C channels, H, W."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hyfree_ray.core.errors import HyfreeError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how a network is evaluated."""

    device: torch.device
    dtype: torch.dtype
    """Of the activations; float32 or bfloat16."""


def compute_of(device: str, precision: str) -> Compute:
    """Check the two names.

    Raises:
        HyfreeError: an unknown device or precision.
    """
    if precision not in _DTYPES:
        raise HyfreeError(
            "device.unknown-precision",
            f"precision {precision!r} is unknown; use one of {', '.join(_DTYPES)}",
        )
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise HyfreeError(
            "device.unknown", f"device {device!r} is unknown; use cpu or cuda:0"
        ) from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise HyfreeError(
            "device.no-gpu", f"device {device!r} was requested, but torch finds no GPU; use cpu"
        )
    return Compute(device=where, dtype=_DTYPES[precision])


class Learner(Protocol):
    """A network in training.

    Where its record says that it learns masks, images have one more channel, the last: the label
    values, whole numbers. Where its plan has `given_channels`, so many follow the image's: a mask
    that the image is to be drawn for, in [-1, 1].
    """

    batch_size: int
    compiled: bool
    """Whether its main phases run compiled code."""

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """The data set as batches are taken from it; called once."""
        ...

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Learn from one batch. All randomness comes from `random`. Returns losses (scalars)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides `random`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights that `Backend.sampler` needs."""
        ...


@runtime_checkable
class PrivateLearner(Learner, Protocol):
    """A network whose training bounds what is learnt of any patient: it draws batches itself."""

    def know_patients(self, images_NCHW: Tensor, patients_N: np.ndarray) -> None:
        """Take over the data set, as `prepare` has returned it, and the patient of each image."""
        ...

    def guarantee(self) -> dict[str, Any]:
        """The guarantee of the whole training: JSON for `privacy_card.Guarantee`."""
        ...


class Sampler(Protocol):
    """A trained network."""

    def __call__(
        self, seeds: Sequence[int], given_NKHW: Tensor | None = None, /
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One image for each seed: NCHW, patch-sized, around [-1, 1], not yet clipped.

        Where its record says "image and mask", also masks_NHW of label values. Where its plan has
        `given_channels`, they are given; a sampler whose record is not conditional need not take
        them.
        """
        ...


@runtime_checkable
class LossySampler(Sampler, Protocol):
    """A trained network that can tell its loss of a single image, not of a batch alone."""

    def losses(self, images_NCHW: Tensor) -> Tensor:
        """Loss_N of patch-sized images in [-1, 1], the same noises for all of them."""
        ...


class Backend(Protocol):
    """Learner and sampler of a generator; `plan` is of the type that its record names."""

    def learner(self, plan: Any, compute: Compute, *, images_shown: int) -> Learner:
        """A network with fresh weights, drawn from torch's global generator."""
        ...

    def sampler(self, plan: Any, compute: Compute, weights: dict[str, Tensor]) -> Sampler:
        """A network with the weights of a snapshot."""
        ...
