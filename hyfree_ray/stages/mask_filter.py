"""The filter of masks at a site whose generator draws them: calibrated, tested, described.

Shapes: N masks, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.mask_copies import MaskFilter, recall
from hyfree_ray.privacy.sampling import DrawnMasks

MASKS_TRIED = 24
"""Training masks by which the filter is tested."""


def mask_filter(view: GeneratorView, masks: list[np.ndarray], percentile: float) -> DrawnMasks:
    """Calibrate the filter on the masks of the training images.

    Args:
        view: the site's images and masks.
        masks: gets what is drawn.
        percentile: of honest masks that are rejected.
    """
    assert view.masks_NHW is not None
    rule = MaskFilter.calibrate(
        view.masks_NHW[view.training_N], view.patients_N[view.training_N], percentile=percentile
    )
    return DrawnMasks(rule=rule, batches=masks)


def describe_masks(rule: MaskFilter, view: GeneratorView, *, seed: int) -> dict[str, Any]:
    """Report how the filter does: copies that it stops, new patients' masks that it rejects."""
    assert view.masks_NHW is not None
    training_NHW, held_out_NHW = (
        view.masks_NHW[part_N] for part_N in (view.training_N, ~view.training_N)
    )
    rejected = float(rule.judge(held_out_NHW).copied_N.mean()) if len(held_out_NHW) else None
    return {
        "self_test": recall(rule, training_NHW, most=MASKS_TRIED, seed=seed),
        "held_out_rejected_share": rejected,
    }
