"""The length of nnU-Net's trainings, their optimiser, and its learning rate with a warm-up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from hyfree_ray.segmenters.record import Optimiser


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length of a training, in nnU-Net's units, and what takes its steps."""

    epochs: int
    iterations: int
    """Batches an epoch; nnU-Net's default is 250."""
    validation_iterations: int
    """Validation batches an epoch, for the pseudo-Dice; nnU-Net's default is 50."""
    warmup: float = 0.0
    """Share of the epochs in which the rate grows linearly (fine-tuning: the first tenth)."""
    optimiser: Optimiser = "sgd"
    precision: str = "fp32"
    """"fp32" or "bf16", on a CPU; on a GPU nnU-Net has its own mixed precision."""


class WarmupPolyLR(PolyLRScheduler):
    """Linear growth to the full rate, then nnU-Net's polynomial decay over what is left."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, rate: float, epochs: int, warmup_epochs: int
    ) -> None:
        self.warmup_epochs = warmup_epochs
        super().__init__(optimizer, rate, epochs)

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return float(self.initial_lr * (epoch + 1) / self.warmup_epochs)
        decay = 1 - (epoch - self.warmup_epochs) / (self.max_steps - self.warmup_epochs)
        return float(self.initial_lr * decay**self.exponent)

    def step(self, current_step: int | None = None) -> None:
        # torch calls step() once while it constructs the scheduler, without an epoch.
        rate = self.rate_at(0 if current_step is None or current_step < 0 else current_step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [rate for _ in self.optimizer.param_groups]
