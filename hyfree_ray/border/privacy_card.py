"""The privacy card of a release: a site's findings about it, as coarse as they may travel.

A site writes it and a pool that does not trust the site reads it: every field is known, every
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
    """Whether its bootstrap interval lies above the control."""
    control_valid: bool
    """Whether the control's interval holds 0.5, as it should: it has nothing to find."""

    @property
    def succeeds(self) -> bool:
        """Whether it beats its control, or chance where the control is invalid."""
        return self.over_control if self.control_valid else self.interval[0] > 0.5

    @property
    def excess(self) -> float:
        """AUC over the control's, or over 0.5 where the control is invalid.

        The control's halves are interchangeable, so its distance from 0.5 counts, not the sign.
        """
        return self.auc - 0.5 - (abs(self.control - 0.5) if self.control_valid else 0.0)

    @property
    def control_text(self) -> str:
        """The control as it is printed beside the attack, with a verdict on it."""
        return f"control {self.control:.2f}{'' if self.control_valid else ', which is invalid'}"


class Attacks(_Strict):
    """The results of membership attacks, or why there are none."""

    measurable: bool
    reason: Annotated[str, Field(max_length=200)] | None = None
    non_member_patients: Annotated[int, Field(ge=0)] | None = None
    nearest: Attack | None = None
    density: Attack | None = None

    def by_name(self) -> Iterator[tuple[str, Attack]]:
        """Yield the attacks that were measured."""
        for name, attack in (("nearest", self.nearest), ("density", self.density)):
            if attack is not None:
                yield name, attack


class Rejects(_Strict):
    """The share that a threshold would reject, rounded to a twentieth."""

    of_released: Share
    of_held_out: Share | None
    """Share of real images of new patients; None if none were held out."""


class PrivacyCard(_Strict):
    """Everything that a release says about its privacy."""

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
    """Share of all samples drawn, rounded to a hundredth."""
    rejects_of_honest_images: Share
    """False positive rate that the thresholds are calibrated to."""
    self_test: Annotated[dict[Name, dict[Name, Share]], Field(max_length=40)]
    """Alteration of the site's own images -> detector (and `UNION`) -> share that it stops."""
    planted_leaks: Annotated[dict[Name, Share], Field(max_length=20)]
    """Recall of all detectors for training images planted among samples."""
    attacks: Attacks
    nearer_to_training: Share | None
    """Share of the images nearer to a training than to one of as many held-out images; None: too
    few."""
    thresholds: Annotated[dict[Literal["ours", "paper"], Rejects], Field(max_length=2)]
    """Ours, and the paper's (half of the patients against the other half, features alone)."""


def coarse(share: float) -> float:
    """Round a share to a twentieth: nothing finer that reveals membership may travel."""
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
    """Return the attack furthest over its control (or chance, if that is invalid), None without
    any."""
    return max((one for _, one in attacks.by_name()), key=lambda one: one.excess, default=None)


def describe(card: PrivacyCard) -> list[str]:
    """Describe the card in lines for people."""
    lines = [
        card.statement,
        f"{card.images} images by {card.generator}, trained on {card.training_images} images, "
        f"{card.images_shown} shown in all",
        f"{card.rejection_rate:.0%} of its samples looked memorised and were dropped",
        "caught by the filter of planted copies of the site's own images: "
        + ", ".join(f"{share:.0%} {name}" for name, share in card.planted_leaks.items()),
    ]
    if not card.attacks.measurable:
        lines.append(f"membership attacks: {card.attacks.reason}")
    for name, attack in card.attacks.by_name():
        low, high = attack.interval
        lines.append(
            f"membership attack '{name}': AUC {attack.auc:.2f} [{low:.2f}, {high:.2f}], "
            f"{attack.control_text}"
        )
    if card.nearer_to_training is not None:
        lines.append(
            f"{card.nearer_to_training:.0%} nearer to a training than to a held-out image (50% is "
            "chance)"
        )
    return lines
