"""2D pictures of downloads: every common way to store one, brought to grey or RGB pixels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as pil

from hyfree_ray.core.errors import HyfreeError

_ORIENTATION = 0x0112
"""EXIF's tag for the turn of a picture."""

_SWAPPING = (5, 6, 7, 8)
"""Turns that exchange height and width."""

_LOSSY = ("JPEG", "MPO", "WEBP")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a picture is stored, read from its header."""

    colour: bool
    bits: int
    """Of a channel: 8 or 16."""
    alpha: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as it is stored, palettes applied."""

    path: Path
    pixels: np.ndarray
    """uint8 or uint16: (H, W), or (H, W, 3)."""
    alpha_HW: np.ndarray | None = None
    turn: int = 1
    """EXIF's number of the turn that a viewer applies; 1: none."""
    lossy: bool = False
    """Whether its format changes values, as JPEG does."""

    @property
    def is_colour(self) -> bool:
        """Whether it has three channels."""
        return self.pixels.ndim == 3

    def turned(self) -> Picture:
        """Return the picture as a viewer shows it."""
        alpha = None if self.alpha_HW is None else _turned(self.alpha_HW, self.turn)
        return replace(self, pixels=_turned(self.pixels, self.turn), alpha_HW=alpha, turn=1)


def read_picture(path: Path) -> Picture:
    """Read a picture of 1, 8 or 16 bits a channel.

    Raises:
        HyfreeError: it cannot be read, has several pages, or other pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.name.casefold().endswith((".tif", ".tiff")):
                return _tiff(path)
            return _by_pillow(path)
    except PermissionError:
        raise HyfreeError(
            "import.unreadable", f"{path}: no permission to read it; correct its access rights"
        ) from None
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, RuntimeError, MemoryError):
        raise HyfreeError(
            "import.unreadable", f"{path}: cannot be read as an image; download it again"
        ) from None


def stored_as(path: Path) -> Stored:
    """Read from a header whether a picture is grey or in colour, and its bits.

    Raises:
        HyfreeError: it cannot be read.
    """
    if path.name.casefold().endswith((".tif", ".tiff")):
        picture = read_picture(path)  # its header has too many forms
        return Stored(
            colour=picture.is_colour,
            bits=8 * picture.pixels.dtype.itemsize,
            alpha=picture.alpha_HW is not None,
        )
    try:
        with pil.open(path) as image:
            alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            palette = np.reshape(image.getpalette() or [0, 0, 0], (-1, 3))
            grey = image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L") or (
                image.mode in ("P", "PA") and bool((palette == palette[:, :1]).all())
            )
            return Stored(colour=not grey, bits=16 if image.mode[0] == "I" else 8, alpha=alpha)
    except (OSError, ValueError, SyntaxError):
        return Stored(colour=False, bits=8, alpha=False)  # `read_picture` says what is wrong


def _by_pillow(path: Path) -> Picture:
    with pil.open(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise _pages(path, image.n_frames)
        turn = int(image.getexif().get(_ORIENTATION, 1) or 1)
        lossy = image.format in _LOSSY
        pixels, alpha = _pixels(image)
    return _picture(path, pixels, alpha, turn=turn, lossy=lossy)


def _pixels(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pixels and transparency of what Pillow has opened."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.dtype == np.int32 and pixels.size and 0 <= pixels.min() <= pixels.max() < 1 << 16:
        pixels = pixels.astype(np.uint16)
    if image.mode in ("LA", "RGBA", "La", "RGBa"):
        return pixels[..., :-1], pixels[..., -1]
    return pixels, None


def _tiff(path: Path) -> Picture:
    """Read a TIFF, whatever its planes, tiles, palette and compression are."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if len(file.pages) > 1 and not all(p.is_reduced for p in list(file.pages)[1:]):
            raise _pages(path, len(file.pages))
        tag = page.tags.get(_ORIENTATION)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            table = np.asarray(page.colormap >> 8, np.uint8)
            pixels = np.moveaxis(table[:, page.asarray()], 0, -1)
        else:
            pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype != np.bool_:
            pixels = np.iinfo(pixels.dtype).max - pixels
    lossy = page.compression in (6, 7, 34712)  # JPEG, JPEG 2000
    alpha = pixels[..., -1] if pixels.ndim == 3 and pixels.shape[-1] in (2, 4) else None
    colours = pixels if alpha is None else pixels[..., :-1]
    return _picture(path, colours, alpha, turn=int(tag.value) if tag else 1, lossy=lossy)


def _picture(
    path: Path, pixels: np.ndarray, alpha: np.ndarray | None, *, turn: int, lossy: bool
) -> Picture:
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype not in (np.uint8, np.uint16) or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    ):
        raise HyfreeError(
            "import.unreadable", f"{path}: not a 2D image of 8 or 16 bits; convert it"
        )
    return Picture(path=path, pixels=pixels, alpha_HW=alpha, turn=turn, lossy=lossy)


def _pages(path: Path, count: int) -> HyfreeError:
    return HyfreeError(
        "import.several-pages",
        f"{path}: has {count} pages or frames; save each as an image, or all as a volume",
    )


def _turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Apply one of EXIF's eight turns."""
    if turn in _SWAPPING:
        pixels = pixels.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def in_one_position(image: Picture, mask: Picture) -> tuple[Picture, Picture]:
    """Turn an image and its mask by what EXIF says of them, so that they match.

    A mask without a turn of its own is drawn on the image as it is stored or as it is shown: their
    sizes tell which.

    Raises:
        HyfreeError: their sizes do not tell.
    """
    if image.turn == mask.turn:
        return image.turned(), mask.turned()
    upright = image.turned()
    if (
        image.turn in _SWAPPING
        and mask.turn == 1
        and image.pixels.shape[0] != image.pixels.shape[1]
    ):
        size = mask.pixels.shape[:2]
        return (replace(image, turn=1) if image.pixels.shape[:2] == size else upright), mask
    raise HyfreeError(
        "import.turned",
        f"{image.path}: EXIF turns it ({image.turn}) and its mask {mask.path.name} otherwise"
        f" ({mask.turn}), and their sizes do not tell how the mask was drawn; save both upright",
    )


def grey_of(picture: Picture) -> np.ndarray:
    """Return one channel: of a grey picture stored in colour, its first."""
    return picture.pixels[..., 0].copy() if picture.is_colour else picture.pixels


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return the upper eight bits of sixteen, and eight as they are."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def rgb_of(picture: Picture) -> np.ndarray:
    """Return RGB of 8 bits; grey is repeated."""
    pixels = eight_bits(picture.pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
