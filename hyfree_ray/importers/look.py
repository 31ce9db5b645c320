"""What was imported, to look at: shares of labels, what is improbable, a sheet of first cases."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from PIL import Image as pil
from PIL import ImageDraw

from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.cohorts.label_sets import foreground, mask_of

SHEET_CASES = 12
_SIDE = 160
_GAP = 4
_CAPTION = 14
_COLOURS = ((230, 60, 60), (60, 200, 80), (80, 120, 255), (240, 200, 40), (200, 80, 220))

APART = 10.0
"""Times by which the shares of a label differ where something is likely wrong."""

MOST = 0.5
"""Share of the pixels from which a structure looks like the background around it."""

FULL = 0.95
"""Share of all pixels that no structure is likely to have."""


class Look:
    """Gathers, case by case, what a person should see of an import."""

    def __init__(self, labels: Mapping[str, Any]) -> None:
        self.labels = labels
        self.shares: dict[str, dict[str, list[tuple[str, float]]]] = {}
        """By site and label: each case with its share."""
        self.spacings: dict[str, list[tuple[str, tuple[float, ...]]]] = defaultdict(list)
        self._contents: dict[str, list[str]] = defaultdict(list)
        self._masks: dict[str, list[str]] = defaultdict(list)
        self._tiles: list[np.ndarray] = []

    def add(self, name: str, site: str, images: Sequence[Image], label: Image | None) -> None:
        """Take account of a case."""
        pixels = itk.GetArrayViewFromImage(images[0])
        self.spacings[site].append((name, tuple(images[0].GetSpacing())))
        self._contents[_digest(pixels)].append(name)
        label_map = None if label is None else itk.GetArrayViewFromImage(label)
        if label_map is not None:
            shares = self.shares.setdefault(site, {one: [] for one in foreground(self.labels)})
            for one, values in foreground(self.labels).items():
                shares[one].append((name, float(mask_of(label_map, values).mean())))
            if label_map.any():
                self._masks[_digest(label_map)].append(name)
        if len(self._tiles) < SHEET_CASES:
            self._tiles.append(_tile(name, pixels, label_map))

    def mean_shares(self) -> dict[str, dict[str, float]]:
        """Return the mean share of each label at each site."""
        return {
            site: {one: fmean(share for _, share in cases) for one, cases in labels.items()}
            for site, labels in sorted(self.shares.items())
        }

    def warnings(self) -> list[str]:
        """Describe what is improbable, a line for each kind."""
        found = []
        means = self.mean_shares()
        for one in foreground(self.labels) if means else ():
            shares = {site: labels[one] for site, labels in means.items()}
            every = [pair for labels in self.shares.values() for pair in labels[one]]
            if max(shares.values()) == 0:
                found.append(f"{one}: no pixel of any mask has it")
                continue
            found += _mostly(one, every)
            full = [name for name, share in every if share > FULL]
            if full:
                found.append(f"{one}: {len(full)} masks are filled with it (first {full[0]})")
            low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
            if shares[high] >= APART * shares[low]:
                found.append(
                    f"{one}: {shares[high]:.3%} of the pixels of {high}, {shares[low]:.3%} of {low}"
                )
            for site, labels in self.shares.items():
                found += _far_apart(one, site, labels[one])
        return found + self._spacings() + self._copies()

    def _spacings(self) -> list[str]:
        found = []
        for site, cases in sorted(self.spacings.items()):
            kinds = {tuple(round(step, 3) for step in spacing) for _, spacing in cases}
            if len(kinds) > 1:
                found.append(
                    f"{site}: the spacing is not constant: {len(kinds)} in {len(cases)} cases, from"
                    f" {_mm(min(kinds))} to {_mm(max(kinds))}"
                )
        return found

    def _copies(self) -> list[str]:
        images = [names for names in self._contents.values() if len(names) > 1]
        masks = [names for names in self._masks.values() if len(names) > 1]
        return [
            f"{len(groups)} {what} repeat: {', '.join(groups[0][:4])} have the same"
            for what, groups in (("images", images), ("masks", masks))
            if groups
        ]

    def write_sheet(self, path: Path) -> None:
        """Write the first cases as a PNG: each image, and beside it its mask in colour."""
        columns = 2 if len(self._tiles) > 2 else 1
        height, width = np.max([tile.shape[:2] for tile in self._tiles], axis=0)
        rows = -(-len(self._tiles) // columns)
        sheet = np.full((rows * (height + _GAP), columns * (width + _GAP), 3), 255, np.uint8)
        for k, tile in enumerate(self._tiles):
            top, left = (k // columns) * (height + _GAP), (k % columns) * (width + _GAP)
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        pil.fromarray(sheet).save(path)


def _mostly(one: str, cases: Sequence[tuple[str, float]]) -> list[str]:
    """Describe masks that look inverted: the structure takes most of the image."""
    inverted = [name for name, share in cases if MOST < share <= FULL]
    if not inverted:
        return []
    return [
        f"{one}: takes more than half of {len(inverted)} images (first {inverted[0]}): see whether"
        " their masks are inverted"
    ]


def _far_apart(one: str, site: str, cases: Sequence[tuple[str, float]]) -> list[str]:
    """Describe a mask whose label is ten times as large or small as is usual at its site."""
    drawn = [(name, share) for name, share in cases if share > 0]
    if len(drawn) < 3:
        return []
    usual = median(share for _, share in drawn)
    odd = [(n, s) for n, s in drawn if s >= APART * usual or s * APART <= usual]
    if not odd:
        return []
    return [
        f"{one}: {len(odd)} masks of {site} are far from the usual {usual:.2%} of the pixels (first"
        f" {odd[0][0]}: {odd[0][1]:.2%})"
    ]


def _digest(pixels: np.ndarray) -> str:
    found = hashlib.sha256(str(pixels.shape).encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def _mm(spacing: Sequence[float]) -> str:
    return "x".join(f"{step:g}" for step in spacing) + " mm"


def _tile(name: str, pixels: np.ndarray, label_map: np.ndarray | None) -> np.ndarray:
    """Draw one case: its image, and again with its mask; of a volume the slice with most of it."""
    if label_map is not None and label_map.ndim == 3:
        k = (
            int(np.argmax((label_map > 0).sum(axis=(1, 2))))
            if label_map.any()
            else len(pixels) // 2
        )
        pixels, label_map = pixels[k], label_map[k]
    elif pixels.ndim == 3 and pixels.shape[-1] != 3:
        pixels = pixels[len(pixels) // 2]
    image_HWC = _eight_bits(pixels)
    drawn_HWC = image_HWC.copy()
    if label_map is not None:
        for value in np.unique(label_map):
            if value:
                colour = np.array(_COLOURS[(int(value) - 1) % len(_COLOURS)])
                inside = label_map == value
                drawn_HWC[inside] = (0.4 * drawn_HWC[inside] + 0.6 * colour).astype(np.uint8)
    both = [_resized(one) for one in (image_HWC, drawn_HWC)]
    strip = np.full((_CAPTION, 2 * _SIDE + _GAP, 3), 255, np.uint8)
    caption = pil.fromarray(strip)
    shown = name if name.isascii() else name.encode("ascii", "replace").decode()
    ImageDraw.Draw(caption).text((2, 1), shown[:50], fill=(0, 0, 0))
    gap = np.full((both[0].shape[0], _GAP, 3), 255, np.uint8)
    row = np.concatenate([both[0], gap, both[1]], axis=1)
    padded = np.full((row.shape[0], 2 * _SIDE + _GAP, 3), 255, np.uint8)
    padded[:, : row.shape[1]] = row
    return np.concatenate([np.asarray(caption), padded])


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, (0.5, 99.5))
    if pixels.ndim == 3:
        low, high = 0.0, 255.0
    scaled = (pixels.astype(np.float64) - low) / max(high - low, 1e-9)
    grey = (255 * scaled.clip(0, 1)).astype(np.uint8)
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def _resized(image_HWC: np.ndarray) -> np.ndarray:
    height, width = image_HWC.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized: np.ndarray = np.asarray(pil.fromarray(image_HWC).resize(size, pil.Resampling.NEAREST))
    return resized
