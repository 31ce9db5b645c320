"""What makes nnU-Net's training on a CPU bearable, without a change of what is computed.

nnU-Net is made for GPUs that are fed by many processes. In a single process on a CPU a third of a
small training's time went into opening files again and into scanning the loaded libraries for
thread pools at each batch; and bf16 instructions, the CPU's counterpart of the mixed precision that
nnU-Net trains with on a GPU, were left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from nnunetv2.training.dataloading import data_loader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

REMEMBERED_BYTES = 1 << 30
"""Decoded cases that a training keeps in memory; what is beyond is read anew each time."""


class RememberingDataset(nnUNetDatasetBlosc2):
    """nnU-Net's data set, which decodes each case once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cases: dict[str, tuple[Any, ...]] = {}
        self._bytes = 0

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        """Image, label, None and properties: the values that nnU-Net's own returns."""
        if identifier not in self._cases:
            data, seg, before, properties = super().load_case(identifier)
            size = data.nbytes + seg.nbytes
            if before is not None or self._bytes + size > REMEMBERED_BYTES:
                return data, seg, before, properties
            self._bytes += size
            self._cases[identifier] = (data[:], seg[:], None, properties)
        return self._cases[identifier]


@contextlib.contextmanager
def limited_once() -> Iterator[None]:
    """Leave out the limit on threads that nnU-Net sets at each batch: the stage's is in force."""
    before = data_loader.threadpool_limits
    data_loader.threadpool_limits = _no_limit
    try:
        yield
    finally:
        data_loader.threadpool_limits = before


def _no_limit(**_: Any) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def in_bf16(forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """A network's forward pass with convolutions in bf16; what comes out is float32."""

    def mixed(x_NCHW: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            out = forward(x_NCHW)
        return [level.float() for level in out] if isinstance(out, list) else out.float()

    return mixed
