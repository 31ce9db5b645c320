"""Several networks as one model: their softmax is averaged on the case's own grid.

Each keeps its own plan, and may cut, resample and normalise a case in its own way.
Shapes: Z slices, H height, W width, O outputs of a network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.cohorts.label_sets import LabelEncoding
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.nnunet.model import MODEL_FILES, Model, slice_volume

ENSEMBLE_FILE = "ensemble.json"
"""Beside the members' folders: how many there are."""

MAX_MEMBERS = 16


def write_ensemble(folder: Path, members: Sequence[Path]) -> None:
    """Write models as one: `folder/<position>/` holds a model's four files each."""
    for position, member in enumerate(members):
        (folder / str(position)).mkdir(parents=True, exist_ok=True)
        for name in MODEL_FILES:
            shutil.copyfile(member / name, folder / str(position) / name)
    (folder / ENSEMBLE_FILE).write_text(json.dumps({"members": len(members)}))


def members_of(folder: Path) -> list[Path]:
    """Return the folders of a model's members: of a single network, its own."""
    if not (folder / ENSEMBLE_FILE).is_file():
        return [folder]
    count = json.loads((folder / ENSEMBLE_FILE).read_text())["members"]
    if type(count) is not int or not 0 < count <= MAX_MEMBERS:
        raise HyfreeError(
            "model.bad-weights",
            f"{folder}: names no number of members from 1 to {MAX_MEMBERS}; copy it again",
        )
    members = [folder / str(position) for position in range(count)]
    for member in members:
        if not (member / "weights.safetensors").is_file():
            raise HyfreeError(
                "model.not-found", f"{member}: holds no model; copy the whole ensemble again"
            )
    return members


class Ensemble:
    """Networks whose probabilities are averaged.

    Args:
        members: folders with a model's four files.
        device: "cpu" or "cuda[:index]".
        segmenter: the architecture that they have to be of; None: the one that each says.

    Raises:
        HyfreeError: as `Model`, or members of different structures.
    """

    def __init__(self, members: Sequence[Path], device: str, segmenter: str | None = None) -> None:
        self.members = [Model(folder, device, segmenter) for folder in members]
        first = self.members[0]
        self.dataset_json = first.dataset_json
        encoding = LabelEncoding.of(first.dataset_json)
        self._orders = []
        for member in self.members:
            own = LabelEncoding.of(member.dataset_json)
            own.values_in(encoding)  # refuses other structures
            self._orders.append([own.outputs.index(name) for name in encoding.outputs])

    def segment(self, image_CZHW: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Segment an image on its own grid: label_ZHW, uint8, as `Model.segment` does."""
        total_OZHW: Any = 0
        for member, order in zip(self.members, self._orders, strict=True):
            total_OZHW = total_OZHW + member.probabilities(image_CZHW, spacing)[order]
        return self.members[0].label_of(total_OZHW / len(self.members))

    def segment_slice(self, image_CHW: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Segment a slice on its own grid, as `Model.segment_slice` does: label_HW, uint8."""
        total_OHW: Any = 0
        for member, order in zip(self.members, self._orders, strict=True):
            axis = member.plan.slice_axis
            probabilities_OZHW = member.probabilities(*slice_volume(image_CHW, spacing, axis))
            total_OHW = total_OHW + probabilities_OZHW.take(0, axis=1 + axis)[order]
        return self.members[0].label_of((total_OHW / len(self.members))[:, None])[0]


def load_model(folder: Path, device: str, segmenter: str | None = None) -> Model | Ensemble:
    """Load a network, or several that are one model.

    Args:
        folder: what `save_network` or `write_ensemble` wrote.
        device: "cpu" or "cuda[:index]".
        segmenter: as of `Model`.
    """
    members = members_of(folder)
    if members == [folder]:
        return Model(folder, device, segmenter)
    return Ensemble(members, device, segmenter)
