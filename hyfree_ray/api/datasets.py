"""A release as PyTorch takes it. C channels, H, W."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyfree_ray.border.release import Release


class ReleaseDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of an image in the site's units (float32, CHW) and its mask (int64, HW).

    Args:
        release: it has passed every check.
    """

    def __init__(self, release: Release) -> None:
        self._release = release

    def __len__(self) -> int:
        return len(self._release.images_NCHW)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # it ends a loop over the pairs
        row = index % len(self)
        image_CHW = self._release.physical(slice(row, row + 1))[0]
        label_HW = self._release.labels_NHW[row].astype(np.int64)
        return torch.from_numpy(image_CHW), torch.from_numpy(label_HW)
