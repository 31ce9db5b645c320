"""What the rest of the platform reads of nnU-Net's plan: the `2d` configuration, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _pair(values: Any) -> tuple[int, int]:
    """nnU-Net writes strides and kernels of a stage as a number or as one number an axis."""
    if isinstance(values, int):
        return (values, values)
    height, width = values
    return (int(height), int(width))


@dataclass(frozen=True, kw_only=True)
class UNetPlan:
    """Typed view of the `2d` configuration of nnU-Net's `plans.json` (Isensee et al. 2021)."""

    patch_size: tuple[int, int]
    """Height and width in pixels: the U-Net's input and the generator's output."""
    spacing: tuple[float, float]
    """Target spacing in mm, (height, width), to which every slice is resampled."""
    strides: tuple[tuple[int, int], ...]
    """Stride of each encoder stage; the first stage (the stem) normally has (1, 1)."""
    kernel_sizes: tuple[tuple[int, int], ...]
    features_per_stage: tuple[int, ...]
    batch_size: int
    channels: int
    normalization_schemes: tuple[str, ...]
    """Names of nnU-Net's normalisation classes, one a channel."""
    foreground_sd: tuple[float, ...] = ()
    """Standard deviation of the foreground's intensities, one a channel; 0 without foreground."""
    slice_axis: int = 0
    """Axis (of slices, height, width as stored) along which volumes are cut."""

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any], *, channels: int) -> UNetPlan:
        """Read the `2d` configuration of a parsed `plans.json`.

        Args:
            plans: the parsed file.
            channels: input channels, which nnU-Net keeps in `dataset.json`.
        """
        configuration = plans["configurations"]["2d"]
        architecture = configuration["architecture"]["arch_kwargs"]
        return cls(
            patch_size=_pair(configuration["patch_size"]),
            spacing=(float(configuration["spacing"][-2]), float(configuration["spacing"][-1])),
            strides=tuple(_pair(stride) for stride in architecture["strides"]),
            kernel_sizes=tuple(_pair(kernel) for kernel in architecture["kernel_sizes"]),
            features_per_stage=tuple(int(n) for n in architecture["features_per_stage"]),
            batch_size=int(configuration["batch_size"]),
            channels=channels,
            normalization_schemes=tuple(configuration["normalization_schemes"]),
            foreground_sd=tuple(
                float(plans["foreground_intensity_properties_per_channel"][str(channel)]["std"])
                for channel in range(channels)
            ),
            slice_axis=int(plans["transpose_forward"][0]),
        )

    @classmethod
    def read(cls, folder: Path) -> UNetPlan:
        """The plan of a folder that holds `plans.json` and `dataset.json`."""
        plans = json.loads((folder / "plans.json").read_text())
        dataset = json.loads((folder / "dataset.json").read_text())
        return cls.from_plans(plans, channels=len(dataset["channel_names"]))
