"""The exponential moving average of a network's weights, from which images are drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF_LIFE = 10_000
"""Images; StyleGAN2's (Karras et al. 2020, arXiv 1912.04958, appendix B)."""
RAMP_UP = 0.05
"""The half-life is at most this share of the images shown so far."""


def keep_share(images_shown: int, batch_size: int) -> float:
    """What share of the average survives a step that ends at `images_shown`.

    0.5 ** (batch / half-life), the half-life growing with the training as in Karras et al. 2020
    (ADA, arXiv 2006.06676), so that the first random weights are soon forgotten.
    """
    return 0.5 ** (batch_size / min(HALF_LIFE, RAMP_UP * images_shown))


class Average:
    """The running average of a module's parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self.weights = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, images_shown: int, batch_size: int) -> None:
        """Move towards the module's present parameters."""
        torch._foreach_lerp_(
            list(self.weights.values()),
            list(self._parameters.values()),
            1 - keep_share(images_shown, batch_size),
        )

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over saved weights, in place."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
