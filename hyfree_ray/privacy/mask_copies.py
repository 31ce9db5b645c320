"""Copies of real masks among those that a generator has drawn: the outline of a lesion identifies.

Two masks are as far apart as their Dice is from 1 once their centres of mass are laid over each
other, mirrored or not, as they are or with one of them wider or narrower by a pixel or two, or
without one of its parts: a generator moves an outline more easily than it draws another. Honest
masks come nearer by that, too, and what is near is calibrated with it, on the site's own patients
(see `memorization`), apart from images: many masks are alike or empty, and images must not be let
through for that.

Shapes: N and M masks, K labels, H height, W width, P = K H W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import (
    gaussian_filter,
    grey_dilation,
    grey_erosion,
    shift,
    zoom,
)
from scipy.ndimage import label as parts_of

from hyfree_ray.privacy.calibration import calibrating, shared_thresholds
from hyfree_ray.privacy.detectors import FAR
from hyfree_ray.privacy.memorization import Judgement

NAME = "masks"
"""Of the detector, among those of images."""

SIDE = 48
"""Pixels of the longer side of the grid on which masks are compared."""

MIN_PIXELS = 24
"""Foreground pixels on that grid below which a mask is of nobody: the small ones are all alike."""

MIN_DISTANCE = 0.03
"""Nearer than this is a copy, whatever the calibration says."""

QUERY_BATCH = 256

WIDER = (0, 1, 2, -1, -2)
"""Pixels by which a training mask is widened, or narrowed, to be compared."""

PARTS = 4
"""Connected parts, the largest first, without each of which a mask is compared, too."""

KNOWN_BATCH = 512
"""Training masks compared at a time, to bound memory."""

_NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
"""Of a centre that was rounded to pixels."""


@dataclass(frozen=True, kw_only=True)
class MaskFilter:
    """A site's training masks, with the distance below which another is a copy of one."""

    values: tuple[int, ...]
    known_MHW: np.ndarray
    """Label values; behind the masks themselves, those that lack one of their parts."""
    index_M: np.ndarray
    """Which training mask each is, or is a part of."""
    patients_M: np.ndarray
    """The patient of each."""
    threshold: float
    """0: too few masks of different patients to say; exact copies alone are stopped."""

    @classmethod
    def calibrate(
        cls, masks_MHW: np.ndarray, patients_M: np.ndarray, *, percentile: float
    ) -> MaskFilter:
        """Set the threshold so that it rejects `percentile` % of honest masks that show something.

        Args:
            masks_MHW: the training masks.
            patients_M: the patient of each.
            percentile: of honest masks.
        """
        values = tuple(int(value) for value in np.unique(masks_MHW) if value)
        lacking = [
            (number, less) for number, one in enumerate(masks_MHW) for less in without_a_part(one)
        ]
        index_M = np.array([*range(len(masks_MHW)), *(number for number, _ in lacking)], np.int64)
        found = cls(
            values=values,
            known_MHW=np.stack([*masks_MHW, *(less for _, less in lacking)]),
            index_M=index_M,
            patients_M=patients_M[index_M],
            threshold=0.0,
        )
        honest_H = calibrating(patients_M)
        nearest_H, _ = found.nearest(masks_MHW[honest_H], patients_M[honest_H])
        shown_H = nearest_H < FAR
        if len(set(patients_M[honest_H][shown_H].tolist())) < 2:
            return found
        (threshold,) = shared_thresholds(
            nearest_H[None, shown_H], patients_M[honest_H][shown_H], percentile / 100
        )
        return replace(found, threshold=float(threshold))

    def nearest(
        self, masks_NHW: np.ndarray, patients_N: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return distance_N to the nearest training mask, `FAR` for one that shows too little, and
        its index_N.

        Args:
            masks_NHW: label values.
            patients_N: a patient for each, whose training masks are left out.
        """
        distance, index = [np.empty(0)], [np.empty(0, np.int64)]
        for start in range(0, len(masks_NHW), QUERY_BATCH):
            part = slice(start, start + QUERY_BATCH)
            distance_NM = self._distances(masks_NHW[part])
            if patients_N is not None:
                distance_NM[patients_N[part, None] == self.patients_M] = FAR
            index.append(self.index_M[distance_NM.argmin(axis=1)])
            distance.append(distance_NM.min(axis=1))
        return np.concatenate(distance), np.concatenate(index)

    def _distances(self, masks_NHW: np.ndarray) -> np.ndarray:
        """Return 1 - Dice of each pair, in the nearest form and neighbouring place."""
        query_NKHW = _grid_of(masks_NHW, self.values)
        placed = [
            _flat(np.roll(query_NKHW, place, axis=(2, 3))).astype(np.float32)
            for place in _NEIGHBOURS
        ]
        area_N = placed[0].sum(axis=1)
        parts = [
            _best_dice(placed, self._forms(slice(start, start + KNOWN_BATCH)))
            for start in range(0, len(self.known_MHW), KNOWN_BATCH)
        ]
        return np.where(area_N[:, None] >= MIN_PIXELS, 1 - np.concatenate(parts, axis=1), FAR)

    def _forms(self, part: slice) -> Iterator[np.ndarray]:
        """Yield training masks_MP, centred, in each form: wider, narrower, mirrored."""
        for pixels in WIDER:
            masks_MHW = widened(self.known_MHW[part], pixels)
            for down in (1, -1):
                for across in (1, -1):
                    # Mirrored before they are resampled, as a copy would be.
                    form_MHW = masks_MHW[:, ::down, ::across]
                    yield centred(form_MHW, self.values).astype(np.float32)

    def judge(self, masks_NHW: np.ndarray) -> Judgement:
        """Compare drawn masks with all training masks: one column, as of a detector."""
        distance_N, index_N = self.nearest(masks_NHW)
        nearness_N = distance_N / max(self.threshold, MIN_DISTANCE)
        return Judgement(nearness_ND=nearness_N[:, None], nearest_ND=index_N[:, None])


def _best_dice(placed: list[np.ndarray], forms: Iterator[np.ndarray]) -> np.ndarray:
    """Return dice_NM in the best place and form; of forms that show too little, as of none, -1."""
    best_NM: np.ndarray | None = None
    area_N = placed[0].sum(axis=1)
    for known_MP in forms:
        area_M = known_MP.sum(axis=1)
        both_NM = np.maximum.reduce([query_NP @ known_MP.T for query_NP in placed])
        dice_NM = 2 * both_NM / np.maximum(area_N[:, None] + area_M, 1)
        dice_NM[:, area_M < MIN_PIXELS] = 1 - FAR
        best_NM = dice_NM if best_NM is None else np.maximum(best_NM, dice_NM)
    assert best_NM is not None
    return best_NM


def widened(masks_NHW: np.ndarray, pixels: int) -> np.ndarray:
    """Return masks whose structures reach so many pixels further, or less far where negative."""
    if pixels == 0:
        return masks_NHW
    change = grey_dilation if pixels > 0 else grey_erosion
    side = 2 * abs(pixels) + 1
    changed_NHW: np.ndarray = change(masks_NHW, size=(1, side, side), mode="constant")
    return changed_NHW


def without_a_part(mask_HW: np.ndarray) -> list[np.ndarray]:
    """Return the mask without each of its largest connected parts, where it has several.

    A part is of one label, or of all of them together: a lesion in an organ, one lung of two.
    """
    found: list[np.ndarray] = []
    for here_HW in (mask_HW > 0, *(mask_HW == value for value in np.unique(mask_HW) if value)):
        numbered_HW, count = parts_of(here_HW)
        sizes = np.bincount(numbered_HW.ravel())[1:]
        for number in np.argsort(-sizes)[:PARTS] + 1:
            less_HW = np.where(numbered_HW == number, 0, mask_HW)
            if less_HW.any() and count > 0 and not any((less_HW == one).all() for one in found):
                found.append(less_HW)
    return found


def smoothed(masks_NHW: np.ndarray) -> np.ndarray:
    """Return masks with rounded outlines: of each pixel the label that has most around it."""
    values = np.unique(masks_NHW)
    around = [
        gaussian_filter((masks_NHW == value).astype(np.float32), (0, 1, 1)) for value in values
    ]
    chosen_NHW: np.ndarray = values[np.argmax(around, axis=0)]
    return chosen_NHW


def centred(masks_NHW: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Return masks_NP on the grid, a part for each label, their centres of mass in the middle."""
    return _flat(_grid_of(masks_NHW, values))


def _grid_of(masks_NHW: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Return centred masks_NKHW on a square grid of `SIDE`, bool."""
    side = max(masks_NHW.shape[1:])
    found_NKHW = np.zeros((len(masks_NHW), len(values), SIDE, SIDE), bool)
    for mask_HW, found_KHW in zip(masks_NHW, found_NKHW, strict=True):
        rows, columns = np.nonzero(mask_HW)
        if not len(rows):
            continue
        # Centred before it is resampled: the same mask elsewhere has the same pixels on the grid.
        middle_HW = np.zeros((2 * side, 2 * side), mask_HW.dtype)
        top, left = (side - round(float(places.mean())) for places in (rows, columns))
        middle_HW[top + rows, left + columns] = mask_HW[rows, columns]
        inside_HW = middle_HW[side // 2 : side // 2 + side, side // 2 : side // 2 + side]
        grid_HW = zoom(inside_HW, SIDE / side, order=0, grid_mode=True, mode="nearest")
        found_KHW[:] = grid_HW[None] == np.array(values)[:, None, None]
    return found_NKHW


def _flat(masks_NKHW: np.ndarray) -> np.ndarray:
    return masks_NKHW.reshape(len(masks_NKHW), -1)


def altered(masks_NHW: np.ndarray) -> dict[str, np.ndarray]:
    """Return copies of masks as a generator would make them, by what was done to them."""
    height, width = masks_NHW.shape[1:]
    moved_NHW = np.stack(
        [shift(one, (height // 12, -(width // 10)), order=0, mode="constant") for one in masks_NHW]
    )
    return {
        "exact": masks_NHW,
        "mirrored": np.ascontiguousarray(masks_NHW[..., ::-1]),
        "moved": moved_NHW,
        "a pixel wider": widened(masks_NHW, 1),
        "two pixels wider": widened(masks_NHW, 2),
        "a pixel narrower": widened(masks_NHW, -1),
        "two pixels narrower": widened(masks_NHW, -2),
        "smoothed": smoothed(masks_NHW),
        "a part missing": np.stack([(without_a_part(one) or [one])[-1] for one in masks_NHW]),
    }


def recall(rule: MaskFilter, masks_MHW: np.ndarray, *, most: int, seed: int) -> dict[str, float]:
    """Measure what share of altered training masks, of those that show something, is stopped.

    Args:
        rule: it knows the masks.
        masks_MHW: the training masks.
        most: masks that are tried at most.
        seed: of their choice.

    Returns:
        By alteration; empty where no mask shows enough.
    """
    shown_M = _flat(_grid_of(masks_MHW, rule.values)).sum(axis=1) >= MIN_PIXELS
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(shown_M))[:most]
    if not len(chosen):
        return {}
    found = {}
    for name, copies_NHW in altered(masks_MHW[chosen]).items():
        # What is left of a narrow mask may show too little to be anybody's.
        shown_N = _flat(_grid_of(copies_NHW, rule.values)).sum(axis=1) >= MIN_PIXELS
        if shown_N.any():
            found[name] = float(rule.judge(copies_NHW[shown_N]).copied_N.mean())
    return found
