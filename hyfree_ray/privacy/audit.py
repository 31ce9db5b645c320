"""The audit of the images that a site is about to release.

Shapes: N released images, K training images, M held-out images, C channels, H height, W width,
F features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyfree_ray.border.privacy_card import UNION, Attacks, PrivacyCard, Rejects, coarse
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.image_quality import distances
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.detectors import Embed
from hyfree_ray.privacy.membership import Group, membership
from hyfree_ray.privacy.sampling import restore
from hyfree_ray.privacy.thresholds import nearer_to_training, ratios, split_half_threshold

MIN_HELD_OUT = 20
"""Held-out images below which the card does not say which images the released are nearer to."""

PLANTED = ("exact", "jittered", "blended 80:20")
"""Alterations of the self-test whose recall the card reports as that of planted leaks: samples are
judged one by one, so the number of other samples makes no difference."""

BATCH = 64
"""Images embedded between two checks of the time limit."""


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """The time that an audit may take, from its creation on.

    The audit's own thread checks it between steps: an audit that is given up has ended, and no
    thread goes on computing beside what comes next.
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise if the time is over.

        Raises:
            TimeoutError: it is.
        """
        if time.monotonic() - self.started > self.seconds:
            raise TimeoutError(f"the audit took more than {self.seconds:g} s")

    def limited(self, embed: Embed) -> Embed:
        """Wrap the embedder so that it checks the limit before each batch."""

        def embed_in_batches(images_NCHW: np.ndarray) -> np.ndarray:
            parts = []
            for start in range(0, len(images_NCHW), BATCH):
                self.check()
                parts.append(embed(images_NCHW[start : start + BATCH]))
            return np.concatenate(parts)

        return embed_in_batches


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings with the numbers behind them. Only `attacks` and shares may travel."""

    attacks: Attacks
    paper_threshold: float
    nearest_N: np.ndarray
    """Feature distance of each released image to its nearest training image."""
    nearest_M: np.ndarray
    """The same for held-out images."""
    ratio_N: np.ndarray | None
    """That distance over the one to the nearest held-out image; None: too few held out."""
    training: int
    """Number of training images."""

    @property
    def nearer_to_training(self) -> float | None:
        """Share of the released images nearer to training than to as many held-out images."""
        if self.ratio_N is None:
            return None
        return nearer_to_training(
            self.ratio_N, training=self.training, held_out=len(self.nearest_M)
        )

    def numbers(self) -> dict[str, Any]:
        """Return JSON that stays at the site: distances reveal membership."""
        return {
            "paper_threshold": self.paper_threshold,
            "nearest": self.nearest_N.tolist(),
            "nearest_of_held_out": self.nearest_M.tolist(),
            "ratio": None if self.ratio_N is None else self.ratio_N.tolist(),
        }


def audit_samples(
    stored_NCHW: np.ndarray,
    view: GeneratorView,
    embed: Embed,
    *,
    percentile: float,
    seed: int,
    limit: TimeLimit,
) -> Audit:
    """Attack the images that would be released, and measure how near they lie to real ones.

    Args:
        stored_NCHW: uint8 or uint16, at least one, as they would travel.
        view: the site's images: training ones, of two patients at least, and held-out ones.
        embed: images in [-1, 1] to features of length 1.
        percentile: that of the paper's threshold.
        seed: seed of halves and resamples.
        limit: the time that it may take.

    Raises:
        TimeoutError: it took longer.
    """
    embed = limit.limited(embed)
    training_N = view.training_N
    sample_NF = embed(restore(stored_NCHW))
    training_KF = embed(view.images_NCHW[training_N])
    held_out_MF = embed(view.images_NCHW[~training_N]) if (~training_N).any() else training_KF[:0]
    members = Group(features_KF=training_KF, patients_K=view.patients_N[training_N])
    others = Group(features_KF=held_out_MF, patients_K=view.patients_N[~training_N])
    enough = len(held_out_MF) >= MIN_HELD_OUT
    return Audit(
        attacks=_rounded(membership(sample_NF, members, others, seed=seed, check=limit.check)),
        paper_threshold=split_half_threshold(
            training_KF, members.patients_K, percentile=percentile, seed=seed_of(seed, "halves")
        ),
        nearest_N=distances(sample_NF, training_KF).min(axis=1),
        nearest_M=distances(held_out_MF, training_KF).min(axis=1),
        ratio_N=ratios(sample_NF, training_KF, held_out_MF) if enough else None,
        training=len(training_KF),
    )


def _rounded(found: Mapping[str, Any]) -> Attacks:
    """Round attacks to hundredths."""

    def rounded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: rounded(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [rounded(inner) for inner in value]
        return round(value, 2) if isinstance(value, float) else value

    return Attacks.model_validate(rounded(found))


def privacy_card(
    audit: Audit, filtered: Mapping[str, Any], *, generator: str, images_shown: int
) -> PrivacyCard:
    """Build the card of the images that were audited.

    Args:
        audit: the findings about them.
        filtered: what the stage `synthesise` returned.
        generator: the backend.
        images_shown: length of its training.
    """
    held_out = filtered["held_out_rejected_share"]
    paper, nearer = audit.paper_threshold, audit.nearer_to_training
    self_test = {
        alteration: {name: round(share, 2) for name, share in recall.items()}
        for alteration, recall in filtered["self_test"].items()
    }
    return PrivacyCard(
        generator=generator,
        images_shown=images_shown,
        training_images=audit.training,
        images=filtered["accepted"],
        embedder=filtered["embedder"],
        detectors=list(filtered["rejected_by"]),
        rejection_rate=round(filtered["rejection_rate"], 2),
        rejects_of_honest_images=filtered["percentile"] / 100,
        self_test=self_test,
        planted_leaks={name: self_test[name][UNION] for name in PLANTED},
        attacks=audit.attacks,
        nearer_to_training=None if nearer is None else coarse(nearer),
        thresholds={
            # The released images have passed our threshold.
            "ours": Rejects(
                of_released=0.0, of_held_out=None if held_out is None else coarse(held_out)
            ),
            "paper": Rejects(
                of_released=coarse(float((audit.nearest_N < paper).mean())),
                of_held_out=coarse(float((audit.nearest_M < paper).mean()))
                if len(audit.nearest_M)
                else None,
            ),
        },
    )
