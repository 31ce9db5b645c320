"""Copies of real masks among those that a generator has drawn: the outline of a lesion identifies.

Two masks are as far apart as their Dice is from 1 once their centres of mass are laid over each
other, mirrored or not. What counts as near is calibrated on the site's own patients, as for images
(see `memorization`), apart from those: many masks are alike or empty, and images must not be let
through for that.

Shapes: N and M masks, K labels, H height, W width, P = K H W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import grey_dilation, shift, zoom

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

_NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
"""Of a centre that was rounded to pixels."""


@dataclass(frozen=True, kw_only=True)
class MaskFilter:
    """A site's training masks, with the distance below which another is a copy of one."""

    values: tuple[int, ...]
    known_VMP: np.ndarray
    """Centred masks in all forms, bool."""
    patients_M: np.ndarray
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
        forms = [masks_MHW[..., ::down, ::across] for down in (1, -1) for across in (1, -1)]
        known_VMP = np.stack([centred(form, values) for form in forms])
        found = cls(values=values, known_VMP=known_VMP, patients_M=patients_M, threshold=0.0)
        honest_H = calibrating(patients_M)
        nearest_H, _ = found.nearest(masks_MHW[honest_H], patients_M[honest_H])
        shown_H = nearest_H < FAR
        if len(set(patients_M[honest_H][shown_H].tolist())) < 2:
            return found
        (threshold,) = shared_thresholds(
            nearest_H[None, shown_H], patients_M[honest_H][shown_H], percentile / 100
        )
        return cls(
            values=values, known_VMP=known_VMP, patients_M=patients_M, threshold=float(threshold)
        )

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
            index.append(distance_NM.argmin(axis=1))
            distance.append(distance_NM.min(axis=1))
        return np.concatenate(distance), np.concatenate(index)

    def _distances(self, masks_NHW: np.ndarray) -> np.ndarray:
        """Return 1 - Dice of each pair, in the nearest form and neighbouring place."""
        query_NKHW = _grid_of(masks_NHW, self.values)
        area_M = self.known_VMP[0].sum(axis=1).astype(np.float32)
        best_NM = np.zeros((len(masks_NHW), len(area_M)), np.float32)
        area_N = np.zeros(len(masks_NHW), np.float32)
        for place in _NEIGHBOURS:
            query_NP = _flat(np.roll(query_NKHW, place, axis=(2, 3)))
            area_N = query_NP.sum(axis=1).astype(np.float32)
            for known_MP in self.known_VMP:
                both_NM = query_NP.astype(np.float32) @ known_MP.T.astype(np.float32)
                dice_NM = 2 * both_NM / np.maximum(area_N[:, None] + area_M, 1)
                best_NM = np.maximum(best_NM, dice_NM)
        shown_NM = (area_N[:, None] >= MIN_PIXELS) & (area_M >= MIN_PIXELS)
        return np.where(shown_NM, 1 - best_NM, FAR)

    def judge(self, masks_NHW: np.ndarray) -> Judgement:
        """Compare drawn masks with all training masks: one column, as of a detector."""
        distance_N, index_N = self.nearest(masks_NHW)
        nearness_N = distance_N / max(self.threshold, MIN_DISTANCE)
        return Judgement(nearness_ND=nearness_N[:, None], nearest_ND=index_N[:, None])


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
        "a pixel wider": np.stack([grey_dilation(one, size=(3, 3)) for one in masks_NHW]),
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
    return {
        name: float(rule.judge(copies_NHW).copied_N.mean())
        for name, copies_NHW in altered(masks_MHW[chosen]).items()
    }
