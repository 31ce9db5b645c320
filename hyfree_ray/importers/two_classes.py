"""Readers of public sets of pictures whose masks are black and white by definition."""

from __future__ import annotations

import numpy as np

from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.importers.masks import bright_of
from hyfree_ray.importers.pictures import eight_bits, grey_of, read_picture, rgb_of
from hyfree_ray.importers.source import SourceCase


def read_grey(case: SourceCase) -> list[Image]:
    """Read a picture as one channel of 8 bits; of a grey picture in colour, its first."""
    return [itk.GetImageFromArray(eight_bits(grey_of(read_picture(case.images[0]))))]


def read_colour(case: SourceCase) -> list[Image]:
    """Read a picture as RGB of 8 bits."""
    pixels = rgb_of(read_picture(case.images[0]))
    return [itk.GetImageFromArray(np.ascontiguousarray(pixels), isVector=True)]


def read_black_and_white(case: SourceCase) -> Image:
    """Join a case's masks into one label."""
    return itk.GetImageFromArray(bright_of([read_picture(mask) for mask in case.masks]))
