"""The quality card of a release: how far it is from real images, and what it teaches.

A site writes it and a pool that does not trust the site reads it, as a privacy card: every field is
known, every number is finite, within its range, and an aggregate over many images, as coarse as a
reader needs it. `violations` is what both hold against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyfree_ray.border.release import Release
from hyfree_ray.core.errors import ReleaseError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]

MAX_STRUCTURES = 255

LEAST_TAUGHT = 0.2
"""Dice of the small network on real images, trained on real ones, below which it is too small or
trained too briefly for this task: the share that a release reaches of it says nothing then. On the
brain phantom it reached .05 to .34."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class QualityGate(_Strict):
    """Bounds on a quality card: beyond them a release teaches nothing, and is not sent."""

    enforced: bool = True
    """Whether the bounds close the gate. False: a card is written, and nothing is held to it."""
    max_accuracy: float = Field(default=0.9, ge=0.5, le=1)
    """Accuracy of a classifier that tells the images from real ones; 0.5 is chance."""
    max_images_times_floor: float = Field(default=4.0, ge=1)
    """How many times as far from real images as these are from each other. The gate closes only
    where the accuracy is above its bound as well: then both a network and plain statistics say that
    this is something else."""
    min_label_share: float = Field(default=0.2, ge=0, le=1)
    """Pixels of a structure, as a share of those that it fills in real images."""
    min_taught: float = Field(default=0.5, ge=0, le=1)
    """Dice on real images of a small network trained on the release alone, as a share of that of
    one trained on real images."""


class Distance(_Strict):
    """A distance to real images, beside the same between two halves of these."""

    value: Amount
    floor: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Structure(_Strict):
    """Label statistics of a structure: shares of pixels and images, pieces, and their size."""

    share: Share
    presence: Share
    components: Amount
    size: Share


class StructureBeside(_Strict):
    """A structure in the release and in real images."""

    synthetic: Structure
    real: Structure
    """As it was annotated."""
    labelled: Structure | None
    """In the same real images, held out, as the network labels them that labels the release; None
    where none are held out. What it misses there it misses in the release, too."""

    @property
    def found(self) -> float:
        """Return the share of real images that the labelling network can be expected to find."""
        real = self.real.share
        return real if self.labelled is None else min(real, self.labelled.share)


class Taught(_Strict):
    """Dice on real validation images of a small network, by what it was trained on."""

    release: Share
    half: Share
    """On the real images of half of the training patients: the floor."""
    local: Share
    """On all real training images."""

    @property
    def ratio(self) -> float:
        """What the release teaches, as a share of what the real images teach."""
        return self.release / self.local if self.local else 1.0


class QualityCard(_Strict):
    """Everything that a release says about its quality, or why it says nothing."""

    measurable: bool
    reason: Annotated[str, Field(max_length=200)] | None = None
    compared_with: Literal["held-out", "training"] = "held-out"
    """Real images of patients whom the generator did not see, or, with too few of these, those
    that it was trained on: copies then look better than they are."""
    accuracy: Share | None = None
    """Of a classifier that tells the images from real ones, rounded to a twentieth."""
    accuracy_floor: Share | None = None
    images: Annotated[dict[Name, Distance], Field(max_length=20)] = {}
    labels: Annotated[dict[Name, Distance], Field(max_length=20)] = {}
    images_times_floor: Amount | None = None
    labels_times_floor: Amount | None = None
    times_floor: Amount | None = None
    """Classifier, images and labels in one number: 1 where nothing tells them from real ones."""
    structures: Annotated[dict[Name, StructureBeside], Field(max_length=MAX_STRUCTURES)] = {}
    taught: Taught | None = None
    """None: no real validation image has any structure."""


def significant(value: float, digits: int = 2) -> float:
    """Round to so many significant digits: as exact as a number on a card is."""
    if value == 0 or not math.isfinite(value):
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def read_quality_card(values: Mapping[str, Any]) -> QualityCard:
    """Read the card of a release from somebody else.

    Raises:
        ValueError: the first thing that is wrong with it, in one line.
    """
    try:
        return QualityCard.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{ascii(where)[1:-1]}: {first['msg'].lower()}") from error


def check_quality(release: Release, gate: QualityGate) -> None:
    """Check the quality card of a release from somebody else against the pool's own gate.

    Raises:
        ReleaseError: rule `card` if it has none that is ours; `quality` if that fails.
    """
    site, values = release.metadata.site, release.metadata.quality
    if not values and not gate.enforced:
        return
    try:
        card = read_quality_card(values)
    except ValueError as error:
        raise ReleaseError(site, "card", f"its quality card is not ours ({error})") from error
    if failed := violations(card, gate):
        raise ReleaseError(site, "quality", "; ".join(failed))


def violations(card: QualityCard, gate: QualityGate) -> list[str]:
    """Return why a release with this card teaches nothing, as plain text; empty if it may."""
    if not gate.enforced or not card.measurable:
        return []
    return [*_told(card, gate), *_lacking(card, gate), *_not_taught(card, gate)]


def _told(card: QualityCard, gate: QualityGate) -> list[str]:
    accuracy, far = card.accuracy, card.images_times_floor
    if accuracy is None or far is None:
        return []
    if accuracy <= gate.max_accuracy or far <= gate.max_images_times_floor:
        return []
    often = "every time" if accuracy == 1 else f"{accuracy:.0%} of the time"
    return [
        f"its synthetic images can be told from real ones {often}, and are {far:.1f} times as far "
        f"from them as these are from each other (more than {gate.max_images_times_floor:g})"
    ]


def _lacking(card: QualityCard, gate: QualityGate) -> list[str]:
    """Say which structures the images lack, or that no structure is labelled at all.

    What the labelling network misses in real images it misses in the release, too: no image of the
    release is to blame for that, unless nothing is left to be learned.
    """
    lacking, unlabelled = [], []
    for name, beside in card.structures.items():
        synthetic, real = beside.synthetic.share, beside.real.share
        if synthetic >= gate.min_label_share * real:
            continue
        said = f"{name[:60]} fills {synthetic:.2g} of them instead of {real:.2g}"
        if synthetic < gate.min_label_share * beside.found:
            lacking.append(f"{said} (less than {gate.min_label_share:g} times)")
        else:
            unlabelled.append(f"{said}, for its network finds {beside.found:.2g} in real images")
    return lacking if len(unlabelled) < len(card.structures) else unlabelled


def finds_nothing(card: QualityCard, gate: QualityGate) -> bool:
    """Return whether the labelling network finds too little of every structure in real images."""
    share = gate.min_label_share
    return bool(card.structures) and all(
        beside.found < share * beside.real.share for beside in card.structures.values()
    )


def _not_taught(card: QualityCard, gate: QualityGate) -> list[str]:
    taught = card.taught
    if taught is None or taught.local < LEAST_TAUGHT or taught.ratio >= gate.min_taught:
        return []
    return [
        f"a network trained on it alone reaches Dice {taught.release:.2f} on real images, one "
        f"trained on real images {taught.local:.2f} (less than {gate.min_taught:g} times)"
    ]


def describe_quality(card: QualityCard) -> list[str]:
    """Describe the card in lines for people."""
    if not card.measurable:
        return [f"quality not measured: {card.reason}"]
    lines = [
        f"a classifier tells it from real images ({card.compared_with}) with accuracy "
        f"{card.accuracy:.2f}; two halves of the real ones: {card.accuracy_floor:.2f}",
        f"its images are {card.images_times_floor:.1f}, its labels {card.labels_times_floor:.1f} "
        "times as far from real ones as these are from each other",
    ]
    lines += [
        f"{name} fills {one.synthetic.share:.2%} of the images, {one.real.share:.2%} of real ones"
        + (f" ({one.labelled.share:.2%} by the labelling network)" if one.labelled else "")
        for name, one in card.structures.items()
    ]
    if card.taught is not None:
        lines.append(
            f"a small network trained on it alone reaches Dice {card.taught.release:.2f} on real "
            f"images; trained on half of the real ones {card.taught.half:.2f}, on all "
            f"{card.taught.local:.2f}"
        )
    return lines
