"""Labelling synthetic images with a site's own nnU-Net.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np

MARGIN_LEVEL = 16
"""Stored value (of 255) under which a row or column is margin."""

MARGIN_SHARE = 0.95
"""Share of a row's or column's pixels that have to be under it: generators leave some noise."""


def content_box(stored_CHW: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns between the dark margins of a synthetic image.

    nnU-Net crops images to what is not zero, so a site's network has never seen margins. The
    generator has, where an image is padded into the patch, and draws them nearly, not exactly,
    black. Without this crop the network finds structures in them.

    Args:
        stored_CHW: uint8 or uint16.

    Returns:
        The box; all of the image where everything is dark.
    """
    per_level = np.iinfo(stored_CHW.dtype).max / 255
    bright_HW = (stored_CHW >= MARGIN_LEVEL * per_level).any(axis=0)
    found = []
    for share_N in (bright_HW.mean(axis=1), bright_HW.mean(axis=0)):
        inside = np.flatnonzero(share_N > 1 - MARGIN_SHARE)
        found.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, len(share_N)))
    return (found[0], found[1])
