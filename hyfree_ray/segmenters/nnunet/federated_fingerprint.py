"""nnU-Net's fingerprint of several parties' cases from each party's own, without their images.

As in FednnU-Net (Skorupko et al. 2025, arXiv 2503.02549): parties send fingerprints, and one plan
for all is made on what these have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INTENSITIES = "foreground_intensity_properties_per_channel"


def merge_fingerprints(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fingerprint of all parties' cases.

    Spacings and shapes are those of all cases. Means and spreads of intensities are those of all
    drawn pixels together, each case weighing the same; their percentiles, which nnU-Net reads for
    CT alone, are means of the parties'.

    Args:
        parts: fingerprints as `InProcessFingerprint` writes them.
    """
    cases_P = np.array([len(part["spacings"]) for part in parts], dtype=float)
    share_P = cases_P / cases_P.sum()
    relative_P = [part["median_relative_size_after_cropping"] for part in parts]
    return {
        "spacings": [one for part in parts for one in part["spacings"]],
        "shapes_after_crop": [one for part in parts for one in part["shapes_after_crop"]],
        INTENSITIES: {
            channel: _merge([part[INTENSITIES][channel] for part in parts], share_P)
            for channel in parts[0][INTENSITIES]
        },
        "median_relative_size_after_cropping": float(np.dot(share_P, relative_P)),
    }


def _merge(parts: Sequence[Mapping[str, float]], share_P: np.ndarray) -> dict[str, float]:
    """Merge the intensities of one channel; `share_P` is of each party's cases."""
    found = {name: float(np.dot(share_P, [part[name] for part in parts])) for name in parts[0]}
    means_P = np.array([part["mean"] for part in parts])
    squares_P = np.array([part["std"] for part in parts]) ** 2 + means_P**2
    found["std"] = float(np.sqrt(max(0.0, np.dot(share_P, squares_P) - found["mean"] ** 2)))
    found["min"] = min(part["min"] for part in parts)
    found["max"] = max(part["max"] for part in parts)
    return found
