"""The privacy card of a release: a site's findings about it, as coarse as they may travel.

A site writes it and a pool that does not trust the site reads it: every field is known, every
number is finite and within its range, and there is no room for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

UNION = "any"
"""The name of all detectors together."""

NOT_MEASURED = "not measured"
"""What a criterion found that could not be tried."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]
Name = Annotated[str, Field(max_length=60)]
Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[list[Name], Field(max_length=20)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Attack(_Strict):
    """A membership attack: it scores patients, of whom some were trained on."""

    auc: Share
    """Below 0.5 it tells as much as above: members are then those it scores low."""
    tpr: Share | None = None
    """Share of the members recognised while 5 % of the held-out patients are mistaken for some."""


class Attacks(_Strict):
    """What membership attacks find, beside what they find by chance; or why there is nothing."""

    measurable: bool
    reason: Annotated[str, Field(max_length=200)] | None = None
    members: Count
    """Patients that were trained on."""
    held_out: Count
    """Patients that were not, whom an attack takes them for."""
    auc: Share | None = None
    """Of the strongest attack, in the direction in which it works: 0.5 and above."""
    chance: Share | None = None
    """What the strongest of them reaches in 95 % of sites where nothing leaks."""
    auc_bound: Share | None = None
    """Lower bound at 95 %."""
    tpr: Share | None = None
    """The highest; None with fewer than 20 held-out patients, as its bound."""
    tpr_bound: Share | None = None
    tpr_at_1: Share | None = None
    """The same while 1 % are mistaken; None with fewer than 100 held-out patients."""
    excluded: Share | None = None
    """Share of the held-out patients known *not* to be members while 5 % of the members are
    mistaken for such. None with fewer than 20 members."""
    by_name: Annotated[dict[Name, Attack], Field(max_length=10)] = Field(default_factory=dict)


class Concentration(_Strict):
    """The releases that are conspicuously near to one patient who was trained on."""

    share: Share
    """Share of the release."""
    p: Share
    """Probability that some patient has so many by chance, rounded down to a hundredth."""


class Findings(_Strict):
    """What attacks on a release, or on several together, found."""

    attacks: Attacks
    concentration: Concentration | None
    """None: too few patients to say what is conspicuous."""


class History(_Strict):
    """What the site has released of some of these patients before, and how often it has tried."""

    releases: Count
    """Earlier releases."""
    audits: Annotated[int, Field(ge=1)]
    """Audits of samples of these patients so far, this one included."""
    together: Findings | None
    """What attacks on all of these releases together found; None for the first one."""


class EpsilonBound(_Strict):
    """A lower bound of epsilon from one training. It informs, and opens no gate."""

    pairs: Count
    """A member and a held-out patient each, parted by chance."""
    at_least: Epsilon
    """Lower bound at 95 %."""
    visible: Epsilon
    """What as many pairs could have shown at most."""


class Guarantee(_Strict):
    """Differential privacy of the generator's training."""

    epsilon: Epsilon
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    unit: Literal["patient"] = "patient"
    public: Names
    """What was known before."""
    outside: Names
    """What else reads real data, and is not covered."""


class Criterion(_Strict):
    """A row of the gate's table."""

    name: Annotated[str, Field(max_length=160)]
    limit: Annotated[str, Field(max_length=40)]
    found: Annotated[str, Field(max_length=80)]
    passed: bool


class Rejects(_Strict):
    """The share that a threshold would reject, rounded to a twentieth."""

    of_released: Share
    of_held_out: Share | None
    """Share of real images of new patients; None if none were held out."""


class Masks(_Strict):
    """What was found about masks that the generator has drawn: outlines identify, too."""

    self_test: Annotated[dict[Name, Share], Field(max_length=10)]
    """Alteration of the site's own masks -> share that its filter stops. Empty: none shows enough
    to be known again."""
    of_held_out: Share | None
    """Share of new patients' masks that the filter rejects, to a twentieth; None: none held out."""
    attacks: Attacks
    """Membership attacks by the masks alone."""


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
    patients_left_out: Count = 0
    """How many patients the site has left out of the training for their risk."""
    embedder: Name
    detectors: Names
    labels: Literal["the site's own network", "drawn with the images"]
    """Where they come from."""
    masks: Masks | None = None
    """Of labels that were drawn; None where a network has made them."""
    rejection_rate: Share
    """Share of all samples drawn, rounded to a hundredth."""
    rejects_of_honest_images: Share
    """False positive rate that the thresholds are calibrated to."""
    self_test: Annotated[dict[Name, dict[Name, Share]], Field(max_length=40)]
    """Alteration of the site's own images -> detector (and `UNION`) -> share that it stops."""
    planted_leaks: Annotated[dict[Name, Share], Field(max_length=20)]
    """Recall of all detectors for training images planted among samples."""
    copy_recall: Annotated[dict[Literal["altered", "generated"], Share], Field(max_length=2)]
    """Share of copies of the site's own images that its filter stops: of images that were altered
    (mean over alterations), and of those that a generator made. Absent: not measured."""
    copy_recall_over_seeds: Annotated[
        dict[Literal["altered", "generated"], Interval], Field(max_length=2)
    ]
    """The lowest and the highest of it where the test is repeated with other seeds."""
    findings: Findings
    """What attacks on the release found."""
    history: History
    epsilon_bound: EpsilonBound | None = None
    guarantee: Guarantee | None = None
    """None: no formal privacy was asked for."""
    thresholds: Annotated[dict[Literal["ours", "paper"], Rejects], Field(max_length=2)]
    """Ours, and the paper's (half of the patients against the other half, features alone)."""
    gate: Annotated[list[Criterion], Field(max_length=30)] = Field(default_factory=list)
    """What the site's own gate asked, and what it found. Another gate judges by the numbers."""

    @model_validator(mode="after")
    def _drawn_masks_are_described(self) -> PrivacyCard:
        if (self.labels == "drawn with the images") != (self.masks is not None):
            raise PydanticCustomError(
                "masks", "'masks' is to describe labels that were drawn, and no others"
            )
        return self


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


def format_attacks(attacks: Attacks) -> str:
    """Return the strongest attack beside what chance finds, in a few words."""
    if attacks.auc is None or attacks.chance is None:
        return "not measurable"
    return f"AUC {attacks.auc:.2f}, by chance up to {attacks.chance:.2f}"


def format_risk(card: PrivacyCard) -> str:
    """Return what is known of a release's risk, in a few words: attack, self-test, epsilon."""
    words = [format_attacks(card.findings.attacks)]
    words += [
        f"{share:.0%} of {copies} copies stopped" for copies, share in card.copy_recall.items()
    ]
    if card.epsilon_bound is not None:
        words.append(
            f"epsilon at least {card.epsilon_bound.at_least:.1f} of "
            f"{card.epsilon_bound.visible:.1f} visible"
        )
    if card.guarantee is not None:
        words.append(f"at most {card.guarantee.epsilon:.1f} guaranteed")
    return "; ".join(words)


def describe(card: PrivacyCard) -> list[str]:
    """Describe the card in lines for people."""
    found = card.findings
    lines = [
        card.statement,
        f"{card.images} images by {card.generator}, trained on {card.training_images} images of "
        f"{found.attacks.members} patients, {card.images_shown} shown in all",
        f"its labels: {card.labels}",
        *_describe_left_out(card),
        f"{card.rejection_rate:.0%} of its samples looked memorised and were dropped",
        "caught by the filter of planted copies of the site's own images: "
        + ", ".join(f"{share:.0%} {name}" for name, share in card.planted_leaks.items()),
        *_describe_attacks(found.attacks),
    ]
    if card.history.together is not None:
        lines.append(
            f"release number {card.history.releases + 1} of these patients, audit number "
            f"{card.history.audits}; together: {format_attacks(card.history.together.attacks)}"
        )
    if found.concentration is not None:
        lines.append(
            f"{found.concentration.share:.0%} of the images are conspicuously near to one patient "
            f"(by chance as many: {found.concentration.p:.0%})"
        )
    if card.epsilon_bound is not None:
        bound = card.epsilon_bound
        lines.append(
            f"epsilon of the training is at least {bound.at_least:.2f} ({bound.pairs} pairs of "
            f"patients could have shown {bound.visible:.2f} at most)"
        )
    lines += [
        f"gate: {'passed' if one.passed else 'FAILED'}: {one.name}: {one.found} ({one.limit})"
        for one in card.gate
    ]
    return lines


def _describe_left_out(card: PrivacyCard) -> list[str]:
    count = card.patients_left_out
    if not count:
        return []
    return [f"{count} {'patient was' if count == 1 else 'patients were'} left out for their risk"]


def _describe_attacks(attacks: Attacks) -> list[str]:
    if not attacks.measurable:
        return [f"membership attacks: {attacks.reason}"]
    lines = [
        f"membership attack '{name}': AUC {one.auc:.2f}"
        + ("" if one.tpr is None else f", {one.tpr:.0%} recognised at 5% mistaken")
        for name, one in attacks.by_name.items()
    ]
    lines.append(
        f"the strongest membership attack: {format_attacks(attacks)}; {attacks.members} patients "
        f"were trained on, {attacks.held_out} held out"
    )
    if attacks.excluded is not None:
        lines.append(
            f"known not to be trained on, because of what lies near them: {attacks.excluded:.0%} "
            "of those held out (5% is chance)"
        )
    return lines
