"""The gate of a release: the bounds that its privacy card must meet before it may travel.

All of the rule is here: `criteria` judges a card by a table that the card then carries. A site
checks its own card before anything is sent, and the pool judges the card that arrived by its own
bounds. The pool has the site's word for the numbers: a signed card that lies passes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hyfree_ray.border.privacy_card import (
    NOT_MEASURED,
    UNION,
    Attacks,
    Criterion,
    Findings,
    PrivacyCard,
    read_card,
)
from hyfree_ray.border.quality_card import QualityGate
from hyfree_ray.border.release import Release
from hyfree_ray.core.errors import ReleaseError


class Gate(BaseModel):
    """Bounds on a privacy card."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_rejection_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of the samples that look memorised: a generator above it mostly copies."""
    min_recall_exact: float = Field(default=0.99, ge=0, le=1)
    """Self-test: share of the site's own images, unaltered, that the filter stops."""
    min_recall_mirrored: float = Field(default=0.979, ge=0, le=1)
    """The same, mirrored; the default is what the paper reports for its detector."""
    min_copy_recall: float = Field(default=0.9, ge=0, le=1)
    """The same of altered copies (mean over alterations), and of those that a generator made."""
    max_attack_auc: float = Field(default=0.55, ge=0.5, le=1)
    """AUC of the strongest membership attack, in either direction, by its lower bound at 95 %."""
    max_attack_tpr: float = Field(default=0.1, ge=0.05, le=1)
    """Share of the members recognised while 5 % of the others are mistaken, by its lower bound."""
    min_patient_p: float = Field(default=0.01, ge=0, le=1)
    """Probability that one patient has so many of the images conspicuously near by chance."""
    min_held_out: int = Field(default=20, ge=0)
    """Held-out patients below which attacks see too little: the self-test has to have passed."""
    max_epsilon: float = Field(default=10.0, gt=0)
    """Of differential privacy, where it was asked for."""
    quality: QualityGate = QualityGate()
    """What its quality card has to say; `quality_card.py` holds it against that."""


def criteria(card: PrivacyCard, gate: Gate) -> list[Criterion]:
    """Judge a card: the gate's table, a row for each bound."""
    return [
        Criterion(
            name="share of the samples that look like copies of training images",
            limit=f"at most {gate.max_rejection_rate:.0%}",
            found=f"{card.rejection_rate:.0%}",
            passed=card.rejection_rate <= gate.max_rejection_rate,
        ),
        *_self_test(card, gate),
        *_attacks(card.findings, gate, "release"),
        *_masks(card, gate),
        _enough_held_out(card, gate),
        *_together(card, gate),
        *_formal(card, gate),
    ]


def violations(card: PrivacyCard, gate: Gate) -> list[str]:
    """Return why a release with this card may not travel, as plain text; empty if it may."""
    return [
        f"{one.name}: {one.found} ({one.limit})" for one in criteria(card, gate) if not one.passed
    ]


def _self_test(card: PrivacyCard, gate: Gate) -> Iterator[Criterion]:
    exact, mirrored = (
        card.self_test.get(alteration, {}).get(UNION, 0.0) for alteration in ("exact", "mirrored")
    )
    altered = card.copy_recall.get("altered", 0.0)
    generated = card.copy_recall.get("generated")
    for copies, found, limit in (
        ("exact", exact, gate.min_recall_exact),
        ("mirrored", mirrored, gate.min_recall_mirrored),
        ("altered", altered, gate.min_copy_recall),
        ("generated", generated, gate.min_copy_recall),
    ):
        yield Criterion(
            name=f"{copies} copies of the site's own images that its filter stops",
            limit=f"at least {limit:.3g}",
            found=NOT_MEASURED if found is None else f"{found:.2f}",
            passed=found is None or found >= limit,
        )


def _masks(card: PrivacyCard, gate: Gate) -> Iterator[Criterion]:
    """Judge masks that a generator has drawn as images are judged."""
    if card.masks is None:
        return
    limits = {"exact": gate.min_recall_exact, "mirrored": gate.min_recall_mirrored}
    for copies, limit in limits.items():
        # Nothing at all is said of masks that show too little; half of a self-test is none.
        found = card.masks.self_test.get(copies, 0.0 if card.masks.self_test else None)
        yield Criterion(
            name=f"{copies} copies of the site's own masks that its filter stops",
            limit=f"at least {limit:.3g}",
            found=NOT_MEASURED if found is None else f"{found:.2f}",
            passed=found is None or found >= limit,
        )
    yield from _attacks(Findings(attacks=card.masks.attacks, concentration=None), gate, "masks")


def judge_attacks(findings: Findings, gate: Gate, target: str) -> list[Criterion]:
    """Judge what attacks on a release, on several, or on a model found.

    Args:
        findings: what they found.
        gate: the bounds.
        target: what was attacked, in words.
    """
    return list(_attacks(findings, gate, target))


def _attacks(findings: Findings, gate: Gate, target: str) -> Iterator[Criterion]:
    attacks, near = findings.attacks, findings.concentration
    if attacks.auc_bound is not None:
        yield Criterion(
            name=f"membership in the {target}: AUC of the strongest attack, its lower bound",
            limit=f"at most {gate.max_attack_auc:.2f}",
            found=f"{attacks.auc_bound:.2f} (AUC {attacks.auc:.2f}, {_sees(attacks, gate)})",
            passed=attacks.auc_bound <= gate.max_attack_auc,
        )
    if attacks.tpr_bound is not None:
        yield Criterion(
            name=f"membership in the {target}: members recognised at 5% mistaken, lower bound",
            limit=f"at most {gate.max_attack_tpr:.2f}",
            found=f"{attacks.tpr_bound:.2f} (share {attacks.tpr:.2f})",
            passed=attacks.tpr_bound <= gate.max_attack_tpr,
        )
    if near is not None:
        yield Criterion(
            name=f"images of the {target} conspicuously near to one patient: chance of as many",
            limit=f"at least {gate.min_patient_p:.2f}",
            found=f"{near.p:.2f} ({near.share:.0%} of the images)",
            passed=near.p >= gate.min_patient_p,
        )


def _sees(attacks: Attacks, gate: Gate) -> str:
    lowest = visible_auc(attacks, gate)
    return "could see none" if lowest is None else f"sees {lowest:.2f}"


def visible_auc(attacks: Attacks, gate: Gate) -> float | None:
    """Return the lowest AUC that would close the gate in 80 % of such sites; None: not even 1.

    By the error of an AUC after Hanley & McNeil 1982, equation 2.
    """
    if attacks.chance is None:
        return None
    members, others = attacks.members, attacks.held_out
    auc_A = np.arange(0.51, 1.0, 0.01)
    once, twice = auc_A / (2 - auc_A), 2 * auc_A**2 / (1 + auc_A)
    variance = auc_A * (1 - auc_A) + (members - 1) * (once - auc_A**2)
    error = np.sqrt((variance + (others - 1) * (twice - auc_A**2)) / (members * others))
    needed = attacks.chance + gate.max_attack_auc - 0.5 + 0.84 * error
    seen = auc_A[auc_A >= needed]
    return float(seen[0]) if len(seen) else None


def _enough_held_out(card: PrivacyCard, gate: Gate) -> Criterion:
    """Where attacks see too little, the filter must be known to work at this site."""
    held_out = card.findings.attacks.held_out
    tested = all(one.passed for one in _self_test(card, gate))
    return Criterion(
        name="held-out patients, or else the self-test passed at this site",
        limit=f"at least {gate.min_held_out}, or passed",
        found=f"{held_out}, {'passed' if tested else 'not passed'}",
        passed=held_out >= gate.min_held_out or tested,
    )


def _together(card: PrivacyCard, gate: Gate) -> Iterator[Criterion]:
    if card.history.together is not None:
        count = card.history.releases + 1
        yield from _attacks(card.history.together, gate, f"{count} releases together")


def _formal(card: PrivacyCard, gate: Gate) -> Iterator[Criterion]:
    if card.guarantee is not None:
        yield Criterion(
            name="epsilon of the generator's differential privacy",
            limit=f"at most {gate.max_epsilon:g}",
            found=f"{card.guarantee.epsilon:.2f}",
            passed=card.guarantee.epsilon <= gate.max_epsilon,
        )


def card_of(release: Release) -> PrivacyCard:
    """Read the card of a release from somebody else.

    Raises:
        ReleaseError: rule `card` where it is none, or not of these images.
    """
    site, rows = release.metadata.site, len(release.images_NCHW)
    try:
        card = read_card(release.metadata.card)
    except ValueError as error:
        raise ReleaseError(site, "card", f"its privacy card is not ours ({error})") from error
    if card.images != rows:
        raise ReleaseError(site, "card", f"its card is of {card.images} images, it has {rows}")
    return card


def check_card(release: Release, gate: Gate) -> PrivacyCard:
    """Check the card of a release from somebody else against the pool's own gate.

    Raises:
        ReleaseError: rule `card` if it is not one, or not of these images; `gate` if it fails.
    """
    card = card_of(release)
    failed = violations(card, gate)
    if failed:
        raise ReleaseError(release.metadata.site, "gate", "; ".join(failed))
    return card
