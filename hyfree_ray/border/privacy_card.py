"""The privacy card of a release: what its site found about it, as coarse as it may travel.

It is written by a site and read by a pool that does not trust it: every field is known, every
number is finite and within its range, and there is no room for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

UNION = "any"
"""The name of all detectors together."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]
Name = Annotated[str, Field(max_length=60)]
Names = Annotated[list[Name], Field(max_length=20)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Attack(_Strict):
    """A membership attack beside its control."""

    auc: Share
    interval: Interval
    control: Share
    control_interval: Interval
    over_control: bool
    """Its bootstrap interval lies above the control."""
    control_valid: bool
    """The control's interval holds 0.5, as it should: there is nothing to find in it."""

    @property
    def counts(self) -> bool:
        """It beats its control; chance, where the control is invalid and excuses nothing."""
        return self.over_control if self.control_valid else self.interval[0] > 0.5

    @property
    def excess(self) -> float:
        """AUC over the control's, or over 0.5 where the control is invalid.

        Which half of a control is called one is chance.
        """
        return self.auc - 0.5 - (abs(self.control - 0.5) if self.control_valid else 0.0)

    @property
    def beside(self) -> str:
        """The control as it is printed beside the attack, with what is to be thought of it."""
        return f"control {self.control:.2f}{'' if self.control_valid else ', which is invalid'}"


class Attacks(_Strict):
    """What attacks on membership found, or why that cannot be told."""

    measurable: bool
    reason: Annotated[str, Field(max_length=200)] | None = None
    non_member_patients: Annotated[int, Field(ge=0)] | None = None
    nearest: Attack | None = None
    density: Attack | None = None

    def by_name(self) -> Iterator[tuple[str, Attack]]:
        """The attacks that were measured."""
        for name, attack in (("nearest", self.nearest), ("density", self.density)):
            if attack is not None:
                yield name, attack


class Rejects(_Strict):
    """What a threshold would reject, rounded to a twentieth."""

    of_released: Share
    of_held_out: Share | None
    """Of real images of new patients; None where none were held out."""


class PrivacyCard(_Strict):
    """All that a release says of its privacy."""

    statement: Literal["Synthetic images. Not a declaration of anonymity."] = (
        "Synthetic images. Not a declaration of anonymity."
    )
    generator: Name
    images_shown: Annotated[int, Field(ge=0)]
    """Length of the generator's training."""
    training_images: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    embedder: Name
    detectors: Names
    rejection_rate: Share
    """Of all samples that were drawn, rounded to a hundredth."""
    rejects_of_honest_images: Share
    """What the thresholds are calibrated to."""
    self_test: Annotated[dict[Name, dict[Name, Share]], Field(max_length=40)]
    """Alteration of the site's own images -> detector (and `UNION`) -> share that it stops."""
    planted_leaks: Annotated[dict[Name, Share], Field(max_length=20)]
    """Recall of all detectors for training images planted among samples."""
    attacks: Attacks
    nearer_to_training: Share | None
    """Of the images, nearer to a training than to one of as many held-out ones; None: too few."""
    thresholds: Annotated[dict[Literal["ours", "paper"], Rejects], Field(max_length=2)]
    """Ours, and the paper's (half of the patients against the other half, features alone)."""


def coarse(share: float) -> float:
    """A share rounded to a twentieth: no finer may anything travel that tells membership."""
    return round(20 * share) / 20


def read_card(values: Mapping[str, Any]) -> PrivacyCard:
    """Read the card of a release from somebody else.

    Raises:
        ValueError: the first thing that is wrong with it, in one line.
    """
    try:
        return PrivacyCard.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{ascii(where)[1:-1]}: {first['msg'].lower()}") from error


def strongest_attack(attacks: Attacks) -> Attack | None:
    """The attack that is furthest over its control, or over chance where that is invalid.

    None where none was measured.
    """
    return max((one for _, one in attacks.by_name()), key=lambda one: one.excess, default=None)


def in_words(card: PrivacyCard) -> list[str]:
    """The card as lines for people."""
    lines = [
        card.statement,
        f"{card.images} images by {card.generator}, shown {card.images_shown} images, "
        f"of {card.training_images} to train on",
        f"{card.rejection_rate:.0%} of its samples looked memorised and were dropped",
        "stopped of the site's own images planted: "
        + ", ".join(f"{share:.0%} {name}" for name, share in card.planted_leaks.items()),
    ]
    if not card.attacks.measurable:
        lines.append(f"membership attacks: {card.attacks.reason}")
    for name, attack in card.attacks.by_name():
        low, high = attack.interval
        lines.append(
            f"membership attack '{name}': AUC {attack.auc:.2f} [{low:.2f}, {high:.2f}], "
            f"{attack.beside}"
        )
    if card.nearer_to_training is not None:
        lines.append(
            f"{card.nearer_to_training:.0%} nearer to a training than to a held-out image (50% is "
            "chance)"
        )
    return lines
