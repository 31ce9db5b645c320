"""The audit of the images that a site is about to release.

Shapes: N released images, K training images, M held-out images, C channels, H height, W width,
F features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import zoom

from hyfree_ray.border.gate import Gate, criteria
from hyfree_ray.border.privacy_card import (
    UNION,
    Attacks,
    Concentration,
    EpsilonBound,
    Findings,
    History,
    Masks,
    PrivacyCard,
    Rejects,
    coarse,
)
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.image_quality import distances
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.concentration import concentration
from hyfree_ray.privacy.detectors import Embed
from hyfree_ray.privacy.mask_copies import centred
from hyfree_ray.privacy.membership import Attacked, Group, Hospital, attack, membership
from hyfree_ray.privacy.one_run import epsilon_bound
from hyfree_ray.privacy.sampling import restore
from hyfree_ray.privacy.thresholds import split_half_threshold

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
class Attempt:
    """What attacks on the images of one or several releases found. Only `findings` may travel."""

    findings: Findings
    attacked: Attacked
    count_P: np.ndarray | None
    """Releases conspicuously near to each patient; None: too few patients to say."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What the site has released of some of these patients before."""

    samples: tuple[np.ndarray, ...] = ()
    """The images of each release, stored_NCHW as they travelled."""
    patients: tuple[int, ...] = ()
    """Patients whom those releases were trained on, as the view numbers them."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings with the numbers behind them. Only `findings` and shares may travel."""

    release: Attempt
    together: Attempt | None
    """All releases of these patients together, this one included; None for the first one."""
    releases: int
    """Number of earlier ones."""
    patients_P: np.ndarray
    paper_threshold: float
    nearest_N: np.ndarray
    """Feature distance of each released image to its nearest training image."""
    nearest_M: np.ndarray
    """The same for held-out images."""
    training: int
    """Number of training images."""

    @property
    def epsilon_bound(self) -> EpsilonBound | None:
        """Lower bound of the training's epsilon, by the attack that looks for near releases."""
        attacked = self.release.attacked
        found = epsilon_bound(attacked.score_AP[0], attacked.member_P)
        return None if found is None else EpsilonBound.model_validate(found)

    def numbers(self) -> dict[str, Any]:
        """Return JSON that stays at the site: distances and risks reveal membership."""
        return {
            "paper_threshold": self.paper_threshold,
            "nearest": self.nearest_N.tolist(),
            "nearest_of_held_out": self.nearest_M.tolist(),
        }

    def patients(self) -> list[dict[str, Any]]:
        """Return the risk of each patient who was trained on, the highest first: for the site.

        `exposed` is the share of held-out patients whom the patient's strongest attack scores
        lower: 1 stands out from all of them. `near` counts released images conspicuously near.
        """
        attacked, count_P = self.release.attacked, self.release.count_P
        others_AM = attacked.score_AP[:, ~attacked.member_P]
        rows = [
            {
                "patient": int(self.patients_P[p]),
                "exposed": round(float((others_AM < score_A1).mean(axis=1).max()), 3)
                if others_AM.size
                else None,
                "near": None if count_P is None else int(count_P[p]),
            }
            for p in np.flatnonzero(attacked.member_P)
            for score_A1 in [attacked.score_AP[:, p, None]]
        ]
        return sorted(rows, key=lambda row: (row["near"] or 0, row["exposed"] or 0), reverse=True)


def audit_samples(
    stored_NCHW: np.ndarray,
    view: GeneratorView,
    embed: Embed,
    *,
    percentile: float,
    seed: int,
    limit: TimeLimit,
    earlier: Earlier | None = None,
) -> Audit:
    """Attack the images that would be released, and measure how near they lie to real ones.

    Args:
        stored_NCHW: uint8 or uint16, at least one, as they would travel.
        view: the site's images: training ones, of two patients at least, and held-out ones.
        embed: images in [-1, 1] to features of length 1.
        percentile: that of the paper's threshold.
        seed: seed of the halves that the paper's threshold is of. No attack depends on it.
        limit: the time that it may take.
        earlier: the site's releases so far that share patients with this one; None: there is none.

    Raises:
        TimeoutError: it took longer.
    """
    earlier = earlier or Earlier()
    embed = limit.limited(embed)
    training_N = view.training_N
    sample_NF = embed(restore(stored_NCHW))
    training_KF = embed(view.images_NCHW[training_N])
    held_out_MF = embed(view.images_NCHW[~training_N]) if (~training_N).any() else training_KF[:0]
    members = Group(features_KF=training_KF, patients_K=view.patients_N[training_N])
    others = Group(features_KF=held_out_MF, patients_K=view.patients_N[~training_N])
    real = Hospital.of(members, others)
    known = [
        embed(resized(restore(one_NCHW), view.images_NCHW.shape[2:]))
        for one_NCHW in earlier.samples
    ]
    return Audit(
        release=attempt(sample_NF, real, limit),
        together=attempt(
            np.concatenate([sample_NF, *known]), real.with_members(earlier.patients), limit
        )
        if known
        else None,
        releases=len(known),
        patients_P=real.patients_P,
        paper_threshold=split_half_threshold(
            training_KF, members.patients_K, percentile=percentile, seed=seed_of(seed, "halves")
        ),
        nearest_N=distances(sample_NF, training_KF).min(axis=1),
        nearest_M=distances(held_out_MF, training_KF).min(axis=1),
        training=len(training_KF),
    )


def resized(images_NCHW: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize images to (H, W): another release may have been made under another plan."""
    if images_NCHW.shape[2:] == size:
        return images_NCHW
    factors = [new / old for new, old in zip(size, images_NCHW.shape[2:], strict=True)]
    found: np.ndarray = zoom(images_NCHW, (1, 1, *factors), order=1, grid_mode=True, mode="nearest")
    return found


def attempt(sample_NF: np.ndarray, real: Hospital, limit: TimeLimit) -> Attempt:
    """Attack the patients of a hospital by images of one or of several of its releases."""
    attacked = attack(sample_NF, real, check=limit.check)
    near = concentration(sample_NF, real, check=limit.check)
    return Attempt(
        findings=Findings(
            attacks=Attacks.model_validate(rounded(membership(attacked))),
            # Rounded down, so that what is below the gate's bound stays below it.
            concentration=None
            if near is None
            else Concentration(share=round(near.share, 2), p=math.floor(near.p * 100) / 100),
        ),
        attacked=attacked,
        count_P=None if near is None else near.count_P,
    )


def audit_masks(masks_NHW: np.ndarray, view: GeneratorView, limit: TimeLimit) -> Attacks:
    """Attack the patients of a hospital by the masks that its generator has drawn, alone.

    Args:
        masks_NHW: those of the release, label values.
        view: the site's images with their masks.
        limit: the time that it may take.

    Raises:
        TimeoutError: it took longer.
    """
    assert view.masks_NHW is not None
    values = tuple(int(value) for value in np.unique(view.masks_NHW) if value)

    def described(masks_KHW: np.ndarray) -> np.ndarray:
        limit.check()
        flat_KP = centred(masks_KHW, values).astype(np.float32)
        unit_KP: np.ndarray = flat_KP / np.maximum(
            np.linalg.norm(flat_KP, axis=1, keepdims=True), 1
        )
        return unit_KP

    parts = [
        Group(features_KF=described(view.masks_NHW[part_N]), patients_K=view.patients_N[part_N])
        for part_N in (view.training_N, ~view.training_N)
    ]
    attacked = attack(described(masks_NHW), Hospital.of(*parts), check=limit.check)
    return Attacks.model_validate(rounded(membership(attacked)))


def rounded(value: Any) -> Any:
    """Round all numbers to hundredths."""
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def privacy_card(
    audit: Audit,
    filtered: Mapping[str, Any],
    gate: Gate,
    *,
    generator: str,
    images_shown: int,
    attempts: int = 1,
    left_out: int = 0,
    by_masks: Attacks | None = None,
) -> PrivacyCard:
    """Build the card of the images that were audited, with the gate's table.

    Args:
        audit: the findings about them.
        filtered: what the stage `synthesise` returned.
        gate: the site's own.
        generator: the backend.
        images_shown: length of its training.
        attempts: audits of samples of these patients so far, this one included.
        left_out: patients whom the site has left out for their risk.
        by_masks: what `audit_masks` found, of a generator that draws masks.
    """
    held_out, paper = filtered["held_out_rejected_share"], audit.paper_threshold
    self_test = {
        alteration: {name: round(share, 2) for name, share in recall.items()}
        for alteration, recall in filtered["self_test"].items()
    }
    card = PrivacyCard(
        generator=generator,
        images_shown=images_shown,
        training_images=audit.training,
        images=filtered["accepted"],
        patients_left_out=left_out,
        embedder=filtered["embedder"],
        detectors=list(filtered["rejected_by"]),
        labels="the site's own network" if by_masks is None else "drawn with the images",
        masks=None if by_masks is None else _masks(filtered["masks"], by_masks),
        rejection_rate=round(filtered["rejection_rate"], 2),
        rejects_of_honest_images=filtered["percentile"] / 100,
        self_test=self_test,
        planted_leaks={name: self_test[name][UNION] for name in PLANTED},
        copy_recall={kind: round(one["stopped"], 2) for kind, one in filtered["copies"].items()},
        copy_recall_over_seeds={
            kind: [round(one[bound], 2) for bound in ("lowest", "highest")]
            for kind, one in filtered["copies"].items()
        },
        findings=audit.release.findings,
        history=History(
            releases=audit.releases,
            audits=attempts,
            together=None if audit.together is None else audit.together.findings,
        ),
        epsilon_bound=audit.epsilon_bound,
        guarantee=filtered.get("guarantee"),
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
    return card.model_copy(update={"gate": criteria(card, gate)})


def _masks(filtered: Mapping[str, Any], attacks: Attacks) -> Masks:
    """Return what the card says of drawn masks."""
    rejected = filtered["held_out_rejected_share"]
    return Masks(
        self_test=rounded(filtered["self_test"]),
        of_held_out=None if rejected is None else coarse(rejected),
        attacks=attacks,
    )
