"""Alterations of real images, as copies of them could look; all moves are relative to the image.

Strengths are drawn for each image. Shapes: N images, M others, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

Alter = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(images_NCHW in [-1, 1], others_NCHW, random generator) to altered_NCHW, not yet clipped. Image n
of `others` is another patient's: copies are pasted and blended into it."""

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""The same, with nobody else's image."""

# The luminance table of ITU T.81 (JPEG), annex K: the divisors at quality 50.
_JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def shifted(images_NCHW: np.ndarray, down: float, right: float) -> np.ndarray:
    """Shift the images by shares of their height and width, to whole pixels, repeating the edge."""
    height, width = images_NCHW.shape[2:]
    rows = np.clip(np.arange(height) - round(down * height), 0, height - 1)
    columns = np.clip(np.arange(width) - round(right * width), 0, width - 1)
    moved: np.ndarray = images_NCHW[:, :, rows[:, None], columns]
    return moved


def posed(
    images_NCHW: np.ndarray,
    *,
    degrees: float = 0.0,
    zoom: float = 1.0,
    shear: float = 0.0,
) -> np.ndarray:
    """Turn, enlarge and shear the images about their centre, repeating the edge."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[1, shear], [0, 1]]) / zoom
    middle = (np.array(images_NCHW.shape[2:]) - 1) / 2
    whole, offset = np.eye(4), np.zeros(4)
    whole[2:, 2:], offset[2:] = linear, middle - linear @ middle
    found: np.ndarray = affine_transform(images_NCHW, whole, offset=offset, order=1, mode="nearest")
    return found


def cropped(images_NCHW: np.ndarray, share: float) -> np.ndarray:
    """Crop that share of height and width and resize to the former size."""
    return posed(images_NCHW, zoom=1 / (1 - share))


def turned_by_90(images_NCHW: np.ndarray) -> np.ndarray:
    """Turn the images by 90 degrees, stretched to their former shape."""
    height, width = images_NCHW.shape[2:]
    rows = np.linspace(0, width - 1, height)
    columns = np.linspace(height - 1, 0, width)
    places = np.meshgrid(columns, rows)
    return _sampled(images_NCHW, np.stack(places)[None])


def bent(images_NCHW: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Bend the images elastically, by at most `strength` 64ths of their longer side."""
    height, width = images_NCHW.shape[2:]
    pixel = max(height, width) / 64
    noise_N2HW = rng.normal(size=(len(images_NCHW), 2, height, width))
    moved_N2HW = gaussian_filter(noise_N2HW, (0, 0, 6 * pixel, 6 * pixel))
    largest = np.abs(moved_N2HW).max(axis=(2, 3), keepdims=True)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    return _sampled(images_NCHW, grid + moved_N2HW / largest * strength * pixel)


def _sampled(images_NCHW: np.ndarray, places_N2HW: np.ndarray) -> np.ndarray:
    """Sample the images at places (row, column); one plan of places does for all."""
    plans = np.broadcast_to(places_N2HW, (len(images_NCHW), *places_N2HW.shape[1:]))
    return np.stack(
        [
            [map_coordinates(channel, places, order=1, mode="nearest") for channel in image]
            for image, places in zip(images_NCHW, plans, strict=True)
        ]
    )


def relit(images_NCHW: np.ndarray, gamma: float) -> np.ndarray:
    """Raise intensities, as shares of their range, to a power."""
    lit: np.ndarray = ((np.clip(images_NCHW, -1, 1) + 1) / 2) ** gamma * 2 - 1
    return lit


def noisy(images_NCHW: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise whose standard deviation is that share of the range."""
    altered: np.ndarray = images_NCHW + rng.normal(0, 2 * share, images_NCHW.shape)
    return altered


def jpeg(images_NCHW: np.ndarray) -> np.ndarray:
    """Apply JPEG's loss at quality 50, per channel: quantised cosines of blocks of 8 x 8."""
    height, width = images_NCHW.shape[2:]
    pad = ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8))
    padded = np.pad(images_NCHW * 127.5, pad, mode="edge")
    count, channels, tall, wide = padded.shape
    blocks = padded.reshape(count, channels, tall // 8, 8, wide // 8, 8)
    cosines = np.rint(dctn(blocks, axes=(3, 5), norm="ortho") / _JPEG_TABLE[:, None, :])
    restored = idctn(cosines * _JPEG_TABLE[:, None, :], axes=(3, 5), norm="ortho")
    altered: np.ndarray = restored.reshape(padded.shape)[..., :height, :width] / 127.5
    return altered


def with_half(images_NCHW: np.ndarray, others_NCHW: np.ndarray) -> np.ndarray:
    """Paste the left halves of the images into others."""
    width = images_NCHW.shape[3] // 2
    pasted: np.ndarray = others_NCHW.copy()
    pasted[..., :width] = images_NCHW[..., :width]
    return pasted


def with_middle(images_NCHW: np.ndarray, others_NCHW: np.ndarray) -> np.ndarray:
    """Paste the middle of the images, half as high and half as wide, into others."""
    height, width = images_NCHW.shape[2:]
    middle = (..., slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4))
    pasted: np.ndarray = others_NCHW.copy()
    pasted[middle] = images_NCHW[middle]
    return pasted


def cut_out(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blank a quarter of each image, half as high and half as wide, anywhere."""
    height, width = images_NCHW.shape[2:]
    blanked: np.ndarray = images_NCHW.copy()
    for image_CHW in blanked:
        top = rng.integers(height - height // 2 + 1)
        left = rng.integers(width - width // 2 + 1)
        window = (slice(None), slice(top, top + height // 2), slice(left, left + width // 2))
        image_CHW[window] = image_CHW.mean(axis=(1, 2), keepdims=True)
    return blanked


def blended(images_NCHW: np.ndarray, others_NCHW: np.ndarray, share: float) -> np.ndarray:
    """Blend the images with others, of which they are that share."""
    return share * images_NCHW + (1 - share) * others_NCHW


def _each(alter: Change) -> Alter:
    """Alter images one at a time, so that each has a strength of its own."""

    def altered(
        images_NCHW: np.ndarray,
        others_NCHW: np.ndarray,  # noqa: ARG001
        rng: np.random.Generator,
    ) -> np.ndarray:
        return np.concatenate([alter(image_1CHW, rng) for image_1CHW in images_NCHW[:, None]])

    return altered


def _either(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a magnitude, and a sign."""
    return float(rng.uniform(low, high) * rng.choice((-1, 1)))


def _jittered(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, place and mirroring a little, all at once."""
    mirrored = images_NCHW[..., :: rng.choice((-1, 1))]
    moved = shifted(mirrored, *rng.uniform(-0.03, 0.03, 2))
    return noisy(moved * rng.uniform(0.9, 1.1) + rng.uniform(-0.2, 0.2), 0.01, rng)


def _moved(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return shifted(images_NCHW, _either(rng, 0.03, 1 / 8), _either(rng, 0.03, 1 / 8))


def _turned(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return posed(images_NCHW, degrees=_either(rng, 3, 10))


def _closer(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cropped(images_NCHW, rng.uniform(0.05, 0.2))


def _lit(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return relit(images_NCHW, 2 ** float(_either(rng, 0.3, 1)))


_MOVES: Sequence[Change] = (
    _moved,
    _turned,
    _closer,
    lambda images, rng: posed(images, zoom=rng.uniform(0.9, 1.1)),
    lambda images, rng: bent(images, rng.uniform(2, 4), rng),
)
_SHADES: Sequence[Change] = (
    _lit,
    lambda images, rng: noisy(images, 0.05, rng),
    lambda images, rng: -images,
    lambda images, rng: cut_out(images, rng),
)


def _twice(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply two alterations, of which the first is a move."""
    first = int(rng.integers(len(_MOVES)))
    others = [change for index, change in enumerate((*_MOVES, *_SHADES)) if index != first]
    second = others[int(rng.integers(len(others)))]
    return second(_MOVES[first](images_NCHW, rng), rng)


def _either_channel(channels: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose a channel for each image: chosen_NC11."""
    chosen_N = rng.integers(channels, size=count)
    chosen_NC11: np.ndarray = (chosen_N[:, None] == np.arange(channels))[:, :, None, None]
    return chosen_NC11


def with_channel(
    images_NCHW: np.ndarray, others_NCHW: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Put one channel of each image in the place of the others'."""
    count, channels = images_NCHW.shape[:2]
    chosen_NC11 = _either_channel(channels, count, rng)
    altered: np.ndarray = np.where(chosen_NC11, images_NCHW, others_NCHW)
    return altered


def channel_inverted(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Invert one channel of each image."""
    count, channels = images_NCHW.shape[:2]
    altered: np.ndarray = images_NCHW * (1 - 2 * _either_channel(channels, count, rng))
    return altered


_ANY: Mapping[str, Alter] = {
    "exact": lambda images, others, rng: images,
    "mirrored": lambda images, others, rng: images[..., ::-1],
    "mirrored upside down": lambda images, others, rng: images[..., ::-1, :],
    "turned by 180 degrees": lambda images, others, rng: images[..., ::-1, ::-1],
    "turned by 90 degrees": lambda images, others, rng: turned_by_90(images),
    "shifted by up to an eighth": _each(_moved),
    "turned by up to 10 degrees": _each(_turned),
    "cropped by up to a fifth": _each(_closer),
    "scaled by up to 10 %": _each(_MOVES[3]),
    "bent": _each(_MOVES[4]),
    "relit": _each(_lit),
    "inverted": lambda images, others, rng: -images,
    "noise of 5 %": lambda images, others, rng: noisy(images, 0.05, rng),
    "JPEG quality 50": lambda images, others, rng: jpeg(images),
    "jittered": _each(_jittered),
    "blended 80:20": lambda images, others, rng: blended(images, others, 0.8),
    "blended 60:40": lambda images, others, rng: blended(images, others, 0.6),
    "half on another": lambda images, others, rng: with_half(images, others),
    "middle on another": lambda images, others, rng: with_middle(images, others),
    "a quarter cut out": lambda images, others, rng: cut_out(images, rng),
    "two at once": _each(_twice),
}
"""Images in [-1, 1], whose range is 2: 5 % is 0.1."""

_OF_CHANNELS: Mapping[str, Alter] = {
    "one channel on another": with_channel,
    "one channel inverted": lambda images, others, rng: channel_inverted(images, rng),
}


def alterations_of(channels: int) -> Mapping[str, Alter]:
    """Return the alterations that images of so many channels are tried with, by name."""
    return _ANY if channels == 1 else {**_ANY, **_OF_CHANNELS}
