"""DiffAugment (Zhao et al. 2020, arXiv 2006.10738): colour, translation, cutout.

The same random changes reach real and generated images, and gradients pass through them, so that
the discriminator cannot learn a few hundred images by heart. N images, C channels, H, W.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS = 0.5
"""Added: uniform in +- this."""
SATURATION = 2.0
"""Distance from the mean over channels, times 0 to this."""
CONTRAST = (0.5, 1.5)
"""Distance from the image's mean, times this."""
SHIFT = 0.125
"""Of each side, at most."""
CUTOUT = 0.5
"""Of each side."""


def _colour(images_NCHW: Tensor, draw: Tensor) -> Tensor:
    """Brightness, saturation, contrast, as one scaling about the two means and one shift."""
    brightness, saturation, contrast = (column[:, None, None, None] for column in draw.unbind(1))
    images_NCHW = images_NCHW + (2 * brightness - 1) * BRIGHTNESS
    if images_NCHW.shape[1] > 1:
        grey = images_NCHW.mean(1, keepdim=True)
        images_NCHW = torch.lerp(grey, images_NCHW, saturation * SATURATION)
    mean = images_NCHW.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images_NCHW, CONTRAST[0] + contrast * (CONTRAST[1] - CONTRAST[0]))


def _axis(draw_shift: Tensor, draw_cut: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: where each pixel comes from, whether that is inside, whether it is cut."""
    place = torch.arange(side, device=draw_shift.device)
    most = int(side * SHIFT + 0.5)
    shift = (draw_shift * (2 * most + 1)).long() - most
    source_NS = place + shift[:, None]
    inside_NS = (source_NS >= 0) & (source_NS < side)
    length = int(side * CUTOUT + 0.5)
    # The centre is anywhere in the image, so a cut may hang over the edge.
    first = (draw_cut * (side + 1 - length % 2)).long() - length // 2
    cut_NS = (place >= first[:, None]) & (place < first[:, None] + length)
    return source_NS.clamp(0, side - 1), inside_NS, cut_NS


def augment(images_NCHW: Tensor, random: torch.Generator, masks: int = 0) -> Tensor:
    """Change images at random: one gather along each axis and one mask for all.

    The last `masks` channels keep their values: they stand for labels, which have no colour. Pixels
    from beyond the edge and pixels cut out are 0, the middle of [-1, 1].
    """
    count, channels, height, width = images_NCHW.shape
    draw = torch.rand(count, 7, generator=random, device=images_NCHW.device)
    labels_NKHW = images_NCHW[:, channels - masks :]
    coloured_NCHW = _colour(images_NCHW[:, : channels - masks], draw[:, :3].to(images_NCHW.dtype))
    images_NCHW = torch.cat([coloured_NCHW, labels_NKHW], dim=1) if masks else coloured_NCHW
    row_NH, row_inside, row_cut = _axis(draw[:, 3], draw[:, 4], height)
    column_NW, column_inside, column_cut = _axis(draw[:, 5], draw[:, 6], width)
    kept_NHW = row_inside[:, :, None] & column_inside[:, None, :]
    kept_NHW = kept_NHW & ~(row_cut[:, :, None] & column_cut[:, None, :])
    shape = (count, channels, height, width)
    images_NCHW = images_NCHW.gather(2, row_NH[:, None, :, None].expand(shape))
    images_NCHW = images_NCHW.gather(3, column_NW[:, None, None, :].expand(shape))
    return images_NCHW * kept_NHW[:, None]
