"""Pictures as people have them: small, not square, not all of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_pictures(folder: Path, count: int = 12, channels: int = 1) -> None:
    """Write discs on noise as PNG, 8 bits."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        height, width = 40 + number % 3, 52
        y, x = np.mgrid[:height, :width]
        disc_HW = 150 * ((y - 20) ** 2 + (x - 26) ** 2 < (6 + number % 5) ** 2)
        noise_HWC = random.integers(0, 60, (height, width, channels))
        pixels_HWC = (disc_HW[..., None] + noise_HWC).astype(np.uint8)
        colour = channels > 1
        image = sitk.GetImageFromArray(
            pixels_HWC if colour else pixels_HWC[..., 0], isVector=colour
        )
        sitk.WriteImage(image, str(folder / f"{number:02d}.png"))
