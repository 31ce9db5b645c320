"""A two-sample test by a classifier: can synthetic images be told from real ones?

A small network that has seen neither is trained to tell them apart, and tested on images that it
was not trained on, the real ones of other patients (Lopez-Paz and Oquab 2017). An accuracy of 0.5
means that it cannot; noise is told every time.

Shapes: N, M images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_SIDE = 64
"""Longer images are averaged down to this: the test is of what is seen at a glance. Their finest
detail is the spectrum's part."""
BATCH, RATE, DECAY = 32, 3e-3, 1e-2

_Images = npt.NDArray[np.float32]


def two_sample_accuracy(
    real_NCHW: _Images,
    patients_N: npt.NDArray[np.int64],
    other_MCHW: _Images,
    *,
    seed: int,
    groups_M: npt.NDArray[np.int64] | None = None,
    folds: int = 4,
    steps: int = 100,
) -> float:
    """Return the balanced accuracy of telling `other` images from real ones, by cross-validation.

    Each image is judged once, by a network trained on the other folds; all images of a patient are
    in one fold.

    Args:
        real_NCHW: in [-1, 1].
        patients_N: whose image each is.
        other_MCHW: the images that are judged, in [-1, 1].
        seed: of the split and the networks.
        groups_M: as `patients_N`; None: each of these images is on its own.
        folds: at least 2; fewer where there are fewer patients.
        steps: of each network's training.
    """
    groups_M = np.arange(len(other_MCHW)) if groups_M is None else groups_M
    folds = min(folds, len(np.unique(patients_N)), len(np.unique(groups_M)))
    rng = np.random.default_rng(seed)
    real, other = _small(real_NCHW), _small(other_MCHW)
    fold_N, fold_M = _folds(patients_N, folds, rng), _folds(groups_M, folds, rng)
    found_real, found_other = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fold in range(folds):
            network = _trained(real[fold_N != fold], other[fold_M != fold], steps, rng)
            found_real += [score < 0 for score in _scores(network, real[fold_N == fold])]
            found_other += [score > 0 for score in _scores(network, other[fold_M == fold])]
    return float((np.mean(found_real) + np.mean(found_other)) / 2)


def _small(images_NCHW: _Images) -> Tensor:
    shown = torch.from_numpy(np.ascontiguousarray(images_NCHW, dtype=np.float32))
    if (factor := -(-max(shown.shape[2:]) // MAX_SIDE)) > 1:
        shown = functional.avg_pool2d(shown, factor, ceil_mode=True)
    return shown


def _folds(
    groups_N: npt.NDArray[np.int64], folds: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the fold of each image, groups in folds of equal numbers."""
    names, group_N = np.unique(groups_N, return_inverse=True)
    return np.asarray(rng.permutation(len(names))[group_N] % folds)


def _network(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, out in ((channels, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(wide, out, 3, stride=2, padding=1), nn.GroupNorm(4, out), nn.SiLU()]
    return nn.Sequential(*layers, _Pool(), nn.Linear(64, 1))


class _Pool(nn.Module):
    """The mean and the maximum over an image: what is everywhere, and what is anywhere."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)


def _trained(real: Tensor, other: Tensor, steps: int, rng: np.random.Generator) -> nn.Module:
    """Train on batches that are half of either, however many there are of each."""
    network = _network(real.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    half = BATCH // 2
    target = torch.cat([torch.zeros(half), torch.ones(half)])
    for images in _batches(real, other, half, steps, rng):
        loss = functional.binary_cross_entropy_with_logits(network(images)[:, 0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def _batches(
    real: Tensor, other: Tensor, half: int, steps: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Yield batches, half of them mirrored, so that few images are not learnt by heart."""
    for step in range(steps):
        drawn = [
            images[torch.from_numpy(rng.integers(0, len(images), half))] for images in (real, other)
        ]
        images = torch.cat(drawn)
        yield images.flip(3) if step % 2 else images


@torch.no_grad()
def _scores(network: nn.Module, images: Tensor) -> list[float]:
    """Return the logits; above 0 an image is taken for one of the others."""
    found: list[float] = network(images)[:, 0].tolist()
    return found
