"""The gate of a release: the bounds that its privacy card must meet before it may travel.

A site checks its own card before anything is sent; the pool checks the card that arrived against
its own gate. Both call the same function of the card alone, so neither needs to trust the other.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hyfree_ray.border.privacy_card import UNION, Attack, PrivacyCard, read_card
from hyfree_ray.border.release import Release
from hyfree_ray.core.errors import ReleaseError


class Gate(BaseModel):
    """Bounds on a privacy card. A card passes on whatever it reports as not measurable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_rejection_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of the samples that look memorised: a generator above it mostly copies."""
    min_recall_exact: float = Field(default=0.99, ge=0, le=1)
    """Self-test: share of the site's own images, unaltered, that the filter stops."""
    min_recall_mirrored: float = Field(default=0.979, ge=0, le=1)
    """The same, mirrored; the default is what the paper reports for its detector."""
    max_auc_over_control: float = Field(default=0.05, ge=0, le=0.5)
    """The most, in AUC, by which a membership attack may beat its control; chance replaces a
    control that is invalid."""
    max_nearer_to_training: float = Field(default=0.75, ge=0, le=1)
    """Share of the released images nearer to a training than to a held-out image; 0.5 is chance."""


def violations(card: PrivacyCard, gate: Gate) -> list[str]:
    """Return why a release with this card may not travel, as plain text; empty if it may."""
    found = []
    if card.rejection_rate > gate.max_rejection_rate:
        found.append(
            f"{card.rejection_rate:.0%} of the samples look like copies of training images "
            f"(more than {gate.max_rejection_rate:.0%})"
        )
    for alteration, minimum in (
        ("exact", gate.min_recall_exact),
        ("mirrored", gate.min_recall_mirrored),
    ):
        recall = card.self_test.get(alteration, {}).get(UNION, 0.0)
        if recall < minimum:
            found.append(
                f"the filter catches {recall:.0%} of {alteration} copies of the site's own images "
                f"(less than {minimum:.1%})"
            )
    for name, attack in card.attacks.by_name():
        if attack.succeeds and attack.excess > gate.max_auc_over_control + 1e-9:
            found.append(_attack_violation(name, attack, gate))
    nearer = card.nearer_to_training
    if nearer is not None and nearer > gate.max_nearer_to_training:
        found.append(
            f"{nearer:.0%} of the images are nearer to a training image than to a held-out one "
            f"(more than {gate.max_nearer_to_training:.0%})"
        )
    return found


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


def _attack_violation(name: str, attack: Attack, gate: Gate) -> str:
    bar = "it" if attack.control_valid else "chance"
    return (
        f"the membership attack '{name}' recognises training images (AUC {attack.auc:.2f}, "
        f"{attack.control_text}; more than {gate.max_auc_over_control:.2f} over {bar})"
    )
