"""A small data set of discs with a bright core, two cases a patient, under labels of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk


def write_discs(
    root: Path,
    dataset: dict[str, Any],
    *,
    patients: int,
    values: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Path:
    """Write a raw data set of one site, `a`, whose images are 40 by 30.

    Args:
        values: of a disc and its core, masks HW, the label map HW.
    """
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines = ["case,site,patient"]
    for index in range(2 * patients):
        rng = np.random.default_rng(index)
        rows_HW, columns_HW = np.mgrid[:40, :30]
        far_HW = np.hypot(rows_HW - 20 - rng.uniform(-4, 4), columns_HW - 14)
        disc_HW, core_HW = far_HW < 11, far_HW < 6
        pixels_HW = 50 + 40.0 * disc_HW + 60 * core_HW + rng.normal(0, 5, far_HW.shape)
        for name, array in (
            (f"imagesTr/d{index:02d}_0000", pixels_HW.astype(np.float32)),
            (f"labelsTr/d{index:02d}", values(disc_HW, core_HW).astype(np.uint8)),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(root / f"{name}.nii.gz"))
        lines.append(f"d{index:02d},a,p{index // 2}")
    (root / "sites.csv").write_text("\n".join(lines))
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root
