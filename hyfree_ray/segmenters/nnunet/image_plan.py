"""nnU-Net's plan for 2D images that nobody has labelled: from their sizes alone."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.segmenters.nnunet.data import DATASET, CappedPlanner, nnunet_environment
from hyfree_ray.segmenters.unet_plan import UNetPlan

if TYPE_CHECKING:
    from hyfree_ray.config.budget import PlanCaps

_UNIT = 1.0
_ACROSS = 999.0
"""Spacing that nnU-Net's reader of pictures gives the axis that they do not have."""


def plan_for_images(sizes: Sequence[tuple[int, int]], channels: int, caps: PlanCaps) -> UNetPlan:
    """Plan the `2d` configuration as nnU-Net does for pictures of these sizes.

    Args:
        sizes: (height, width) of each image; a pixel counts as a millimetre.
        channels: of all images.
        caps: on resolution, width and batch size.
    """
    flat = dict.fromkeys(
        ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"), 0.0
    )
    fingerprint = {
        "spacings": [[_ACROSS, _UNIT, _UNIT]] * len(sizes),
        "shapes_after_crop": [[1, *size] for size in sizes],
        "foreground_intensity_properties_per_channel": {str(k): flat for k in range(channels)},
        "median_relative_size_after_cropping": 1.0,
    }
    dataset = {
        "channel_names": {str(k): f"channel {k}" for k in range(channels)},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(sizes),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "dataset": {str(k): {"images": [f"{k}.png"], "label": ""} for k in range(len(sizes))},
    }
    with tempfile.TemporaryDirectory() as folder, nnunet_environment(Path(folder)):
        for place, name, values in (
            ("raw", "dataset.json", dataset),
            ("preprocessed", "dataset_fingerprint.json", fingerprint),
        ):
            file = Path(folder) / place / DATASET / name
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(values))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints all of its plan
            plans = CappedPlanner(DATASET, caps).plan_experiment()
    return UNetPlan.from_plans(plans, channels=channels)
