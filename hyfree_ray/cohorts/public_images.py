"""Images made without any patient: who knows the seed draws the same ones.

Noise whose power falls with a power of the frequency, as that of natural images does (Field 1987,
J. Opt. Soc. Am. A 4(12)); networks trained on such noise learn usable features (Baradad et al.
2021, arXiv 2106.05963). Here it carries what hospitals' networks know to each other: their labels.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PUBLIC_IMAGES = 300

SIDE = 256
"""Pixels of the square that an image is drawn in, before it is enlarged or reduced to a size."""

SLOPES = (0.5, 3.5)
"""Of amplitude over frequency, uniformly distributed: from fine grain to soft clouds."""

_CT_RANGE = (-1000.0, 1000.0)
"""HU; nnU-Net leaves the scale of CT as it is."""


def draw_public_images(
    count: int, channels: int, size: tuple[int, int], seed: int
) -> npt.NDArray[np.uint8]:
    """Draw images_NCHW: power-law noise of a random slope, every second one cut to an ellipse.

    Image n depends on the seed and n alone; another size shows the same image. Channels share a
    random part of their noise, as channels of one patient do.

    Args:
        count: N.
        channels: C.
        size: height and width in pixels.
        seed: that all know.
    """
    images = [_draw(np.random.default_rng([seed, n]), n, channels, size) for n in range(count)]
    return np.stack(images)


def _draw(
    random: np.random.Generator, number: int, channels: int, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Draw image_CHW, scaled to 0 to 255 channel by channel."""
    slope = random.uniform(*SLOPES)
    share = random.uniform()
    fields = [_noise(random, slope) for _ in range(channels + 1)]
    inside_HW = _resized(_ellipse(random).astype(float), size) > 0.5
    image_CHW = np.empty((channels, *size), np.uint8)
    for channel, own in enumerate(fields[1:]):
        noise_HW = _resized(np.sqrt(share) * fields[0] + np.sqrt(1 - share) * own, size)
        low, high = noise_HW.min(), noise_HW.max()
        # Not down to 0, which is what lies outside of the ellipse.
        levels_HW = 16 + 239 * (noise_HW - low) / max(high - low, 1e-9)
        if number % 2:
            levels_HW = np.where(inside_HW, levels_HW, 0)
        image_CHW[channel] = np.rint(levels_HW)
    return image_CHW


def _noise(random: np.random.Generator, slope: float) -> npt.NDArray[np.float64]:
    """Draw a field whose amplitude falls as frequency ** -slope; its mean is 0, its spread 1."""
    spectrum = np.fft.rfft2(random.standard_normal((SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = np.inf  # no mean
    field = np.fft.irfft2(spectrum * frequency**-slope, s=(SIDE, SIDE))
    return np.asarray(field / field.std())


def _ellipse(random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw an ellipse about the middle: where a body would be."""
    half = random.uniform(0.3, 0.49, size=2) * SIDE
    middle = SIDE / 2 + random.uniform(-0.05, 0.05, size=2) * SIDE
    angle = random.uniform(0, np.pi)
    y, x = np.mgrid[:SIDE, :SIDE] - (middle - 0.5)[:, None, None]
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    return np.asarray((along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1)


def _resized(field: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Average or interpolate a field to another size, by linear weights along each axis."""
    rows, columns = (_weights(len(field), pixels) for pixels in size)
    return np.asarray(rows @ field @ columns.T)


def _weights(given: int, wanted: int) -> npt.NDArray[np.float64]:
    """Return the share of each given pixel in each wanted one, a triangle as wide as a step."""
    step = given / wanted
    centres = (np.arange(wanted) + 0.5) * step - 0.5
    distance = np.abs(np.arange(given) - centres[:, None])
    weights = np.clip(1 - distance / max(step, 1.0), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def levels_of(channel_names: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and offset of each channel: physical = stored value x scale + offset.

    nnU-Net brings every channel to a scale of its own but CT's, which is known to all.
    """
    ranges = [_CT_RANGE if one.casefold() == "ct" else (0.0, 255.0) for one in channel_names]
    return tuple((high - low) / 255 for low, high in ranges), tuple(low for low, _ in ranges)
