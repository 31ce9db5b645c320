"""Sampling through the memorisation filter until a quota is met.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyfree_ray.border.release import repeated_rows
from hyfree_ray.privacy.mask_copies import NAME, MaskFilter
from hyfree_ray.privacy.memorization import Judgement, MemorisationFilter

JUDGED = 256
"""Samples that the filter judges at a time: it poses all training images anew for each batch."""

MAX_DRAWS_PER_IMAGE = 4
"""Samples drawn at most for each image of the quota, rejected ones included."""


Draw = Callable[[int, int], Iterator[np.ndarray]]
"""(start, count) to batches of samples start .. start + count - 1, float32 NCHW in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class DrawnSamples:
    """The result of sampling."""

    accepted_NCHW: np.ndarray
    """As they travel, uint8 or uint16, at most the quota, no two equal."""
    accepted_at_N: np.ndarray
    """Their numbers in the order of drawing."""
    drawn: int
    rejected: int
    """Number of the drawn that look memorised."""
    rejected_by: dict[str, int]
    """Number that each detector would have rejected on its own."""
    nearest_N: np.ndarray
    """Nearness (see `Judgement`) of the samples nearest to real images, rising."""
    nearest_sample_NCHW: np.ndarray
    """Those samples, as they would be released, in [-1, 1]."""
    nearest_real_N: np.ndarray
    """Index of the training image that each is nearest to."""

    @property
    def rejection_rate(self) -> float:
        """Share of the samples that look memorised."""
        return self.rejected / self.drawn

    def reason_to_withhold(self, max_rejection_rate: float) -> str | None:
        """Return why nothing may be released, as plain text; None if it may.

        Args:
            max_rejection_rate: above it, a generator mostly copies.
        """
        if self.rejection_rate > max_rejection_rate:
            return (
                f"{self.rejection_rate:.0%} of the samples look like copies of training images "
                f"(more than {max_rejection_rate:.0%}): the site is too small for its generator"
            )
        if len(self.accepted_NCHW) == 0:
            return "no sample passed the memorisation filter"
        return None


def max_level(dtype: npt.DTypeLike) -> int:
    """Return the highest stored value: a step is that fraction of the site's intensity range."""
    return int(np.iinfo(np.dtype(dtype)).max)


def quantise(images_NCHW: np.ndarray, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
    """Convert [-1, 1] to stored values, uint8 or uint16."""
    return np.rint((images_NCHW + 1) / 2 * max_level(dtype)).astype(dtype)


def restore(stored_NCHW: np.ndarray) -> np.ndarray:
    """Convert stored values back to [-1, 1], float32."""
    return stored_NCHW.astype(np.float32) / max_level(stored_NCHW.dtype) * 2 - 1


@dataclass(frozen=True, kw_only=True)
class DrawnMasks:
    """The masks of a generator that draws pairs, and the filter that they have to pass."""

    rule: MaskFilter
    batches: list[np.ndarray]
    """masks_NHW in the order of drawing; the generator adds to them with each batch of images."""

    def judge(self, start: int, count: int) -> Judgement:
        """Judge the masks of some of the samples that were drawn."""
        return self.rule.judge(np.concatenate(self.batches)[start : start + count])


def draw_until(
    quota: int,
    draw: Draw,
    rule: MemorisationFilter,
    *,
    max_rejection_rate: float,
    dtype: npt.DTypeLike = np.uint8,
    keep_nearest: int = 8,
    masks: DrawnMasks | None = None,
    report: Callable[[int, int], None] = lambda accepted, rejected: None,
) -> DrawnSamples:
    """Draw samples and reject those that look memorised, until `quota` are left.

    Rejected samples are replaced, with up to `MAX_DRAWS_PER_IMAGE` draws for each image of the
    quota. Sampling ends as soon as more than `max_rejection_rate` is rejected after a round: such a
    generator copies.

    Args:
        quota: number of images requested.
        draw: the generator.
        rule: the site's calibrated filter; it sees samples as they would travel, quantised.
        max_rejection_rate: the gate's (see `hyfree_ray.border.gate`).
        dtype: what they travel as: uint8 or uint16.
        masks: of a generator that draws masks, too: what was drawn, and the filter of these.
        keep_nearest: number of the samples nearest to real images that are retained to be viewed.
        report: called with (accepted, rejected) after each batch.
    """
    accepted: list[np.ndarray] = []
    accepted_at: list[np.ndarray] = []
    nearest: list[tuple[float, int, np.ndarray]] = []
    count = drawn = rejected = 0
    names = rule.names if masks is None else (*rule.names, NAME)
    rejected_D = np.zeros(len(names), np.int64)
    while count < quota and drawn < MAX_DRAWS_PER_IMAGE * quota:
        requested = quota
        if drawn:
            # Later rounds only replace rejected samples, at the rate seen so far.
            requested = min(quota, int((quota - count) * drawn / max(1, count)) + 1)
        asked = min(requested, MAX_DRAWS_PER_IMAGE * quota - drawn)
        for batch_NCHW in _joined(draw(drawn, asked)):
            stored_NCHW = quantise(batch_NCHW, dtype)
            shown_NCHW = restore(stored_NCHW)
            judged = rule.judge(shown_NCHW)
            if masks is not None:
                judged = judged.joined(masks.judge(drawn, len(batch_NCHW)))
            dropped_N = judged.copied_N
            rejected_D += judged.copied_ND.sum(axis=0)
            accepted.append(stored_NCHW[~dropped_N])
            accepted_at.append(drawn + np.flatnonzero(~dropped_N))
            nearest += list(zip(*judged.nearest(), shown_NCHW, strict=True))
            nearest = sorted(nearest, key=lambda one: one[0])[:keep_nearest]
            drawn += len(batch_NCHW)
            rejected += int(dropped_N.sum())
            count += int((~dropped_N).sum())
            report(min(count, quota), rejected)
        if rejected / drawn > max_rejection_rate:
            break
    passed_NCHW = np.concatenate(accepted)
    chosen_N = np.flatnonzero(~repeated_rows(passed_NCHW))[:quota]
    return DrawnSamples(
        accepted_NCHW=passed_NCHW[chosen_N],
        accepted_at_N=np.concatenate(accepted_at)[chosen_N],
        drawn=drawn,
        rejected=rejected,
        rejected_by=dict(zip(names, rejected_D.tolist(), strict=True)),
        nearest_N=np.array([nearness for nearness, _, _ in nearest]),
        nearest_sample_NCHW=np.stack([shown for _, _, shown in nearest]),
        nearest_real_N=np.array([real for _, real, _ in nearest]),
    )


def _joined(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Join small batches into such of at least `JUDGED` images; the last may hold fewer."""
    waiting: list[np.ndarray] = []
    for batch_NCHW in batches:
        waiting.append(batch_NCHW)
        if sum(map(len, waiting)) >= JUDGED:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
