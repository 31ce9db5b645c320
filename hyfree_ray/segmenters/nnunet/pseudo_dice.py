"""Which epoch's weights a training keeps."""

from __future__ import annotations

import numpy as np


class PseudoDice:
    """nnU-Net's moving average of the validation batches' Dice, and whose epoch's weights to keep.

    nnU-Net starts its average (memory: 10 epochs) at the first epoch's value. Over a short
    training that value counts for years: where the first few validation batches were easy, no
    later epoch looked better, and a fine-tuned network was kept as it was after one epoch. Here
    the start is divided out, as Adam does with its moments (Kingma & Ba 2015, section 3), and the
    epoch is chosen from the second half, when the average has a past and the rate is low.
    """

    DECAY = 0.9

    def __init__(self, epochs: int) -> None:
        self.first_epoch = epochs // 2
        self.sum = 0.0
        self.weight = 0.0
        self.best = 0.0
        self.best_epoch = -1

    @property
    def average(self) -> float:
        """In [0, 1]; 0 before any validation batch had foreground."""
        return self.sum / self.weight if self.weight else 0.0

    def take(self, epoch: int, value: float) -> bool:
        """Take an epoch in; whether its weights are the best so far.

        NaN, an epoch without any foreground, leaves the average as it was.
        """
        if np.isfinite(value):
            self.sum = self.DECAY * self.sum + (1 - self.DECAY) * value
            self.weight = self.DECAY * self.weight + (1 - self.DECAY)
        if epoch < self.first_epoch or self.average < self.best:
            return False
        self.best, self.best_epoch = self.average, epoch
        return True
