"""What a run found, as it lies in its folder's `summary.json`: records with one reader and writer.

People script against that file: its keys stay. What an earlier version did not write is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import write_json
from hyfree_ray.evaluation.scores import PRIMARY
from hyfree_ray.results.contrasts import Contrast, Tested
from hyfree_ray.results.verdicts import Part, Verdict

SUMMARY = "summary.json"

TESTED: tuple[Tested, ...] = ("own", "foreign")
TESTED_LABELS: Mapping[Tested, str] = {"own": "own", "foreign": "elsewhere"}
"""Whose test cases, as tables and curves name them."""
TESTED_MEANS: Mapping[Tested, str] = {
    "own": "test patients of the hospital whose model it is",
    "foreign": "the other hospitals' test patients, each hospital with equal weight",
}
"""The same in a reader's words."""
ALL_SITES = "all sites"
"""The line of what is over all of them."""
WORST_SITE = "worst site"
"""The line below it: a mean may hide who loses."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One regime's models, of one site or of all, on own or foreign test cases."""

    regime: str
    tested: Tested
    counts: Mapping[str, int]
    """Of the outcomes of masks (see metrics.py)."""
    values: Mapping[str, float | None]
    """By metric; None where nothing was measured."""

    @property
    def primary(self) -> float | None:
        """Of the metric that models are compared by."""
        return self.values.get(PRIMARY)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, found: Any) -> Any:
        if not isinstance(found, dict) or "values" in found:
            return found
        rest = {name: found[name] for name in ("regime", "tested", "counts") if name in found}
        return {**rest, "values": {k: v for k, v in found.items() if k not in rest}}

    @model_serializer
    def _write(self) -> dict[str, Any]:  # metrics stand beside the rest
        rest = {"regime": self.regime, "tested": self.tested, "counts": dict(self.counts)}
        return {**rest, **self.values}


@dataclass(frozen=True, kw_only=True)
class SiteOutcome:
    """What became of a site's release."""

    site: str
    outcome: Literal["released", "withheld", "refused", "failed", "late", "withdrawn"]
    """`withheld` by the site, `refused` by the pool; the others are not in the round."""
    reason: str = ""
    """Why there is no release, in plain words."""
    images: int
    """Synthetic images released."""
    rejection_rate: float | None
    """Share of the samples that looked memorised; None if none were drawn."""
    flag: str = ""
    """What is odd about a release that was taken in; empty where nothing is."""
    chosen: str = ""
    """The regime that the site would keep by its validation cases; empty where it was not asked."""
    label_agreement: float | None = None
    """Dice of its labels with a model trained on the other releases; None where none was asked."""
    effect: float | None = None
    """Dice that its release adds to a general model, the mean over all hospitals' validation cases;
    None where no model was trained without it."""
    replayed: bool = True
    """Whether that is enough for its release to be replayed."""
    attack: str = ""
    """The strongest membership attack on its samples, in words; empty where there was none."""
    attack_succeeds: bool = False
    """Whether it was seen to tell who was trained on."""
    device_hours: float | None = None
    """That the site's own devices were busy for sharing, beside its own training."""

    def part(self) -> Part:
        """Return what a verdict says of the site beside its gains."""
        released = self.outcome == "released"
        return Part(
            site=self.site,
            shares=f"{self.images} images" if released else f"nothing ({self.outcome})",
            keeps=self.chosen or "-",
            attack=self.attack or "-",
            at_risk=self.attack_succeeds or not released,
            device_hours=self.device_hours,
        )


@dataclass(frozen=True, kw_only=True)
class SiteSummary:
    """A row of the table."""

    outcome: SiteOutcome
    scores: tuple[Score, ...]

    def score(self, regime: str, tested: Tested) -> Score | None:
        """Return the score of a regime, None if it was not scored."""
        return _find(self.scores, regime, tested)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The final table as numbers."""

    verdicts: tuple[Verdict, ...] = ()
    """What each hospital is told; empty in a run of an earlier version."""
    warning: str = ""
    """Why no number of it means anything; empty where they do."""
    too_short: str = ""
    """What the general model was trained too short for; empty where it was not."""
    run: str
    regimes: tuple[str, ...]
    sites: tuple[SiteSummary, ...]
    overall: tuple[Score, ...]
    """Unweighted means over the sites."""
    contrasts: tuple[Contrast, ...]
    caveat: str
    """What no interval here covers; empty if there is nothing to add."""
    notes: tuple[str, ...] = ()
    """What of the settings that were asked for is not there, or not as it was asked for."""

    def score(self, regime: str, tested: Tested) -> Score | None:
        """Return a regime's mean over the sites."""
        return _find(self.overall, regime, tested)

    def worst(self, regime: str, tested: Tested) -> Score | None:
        """Return a regime's score of the site at which it is lowest."""
        scores = (site.score(regime, tested) for site in self.sites)
        known = [score for score in scores if score is not None and score.primary is not None]
        return min(known, key=lambda score: score.primary or 0.0, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values without NaN, numbers to six decimals."""
        known = TypeAdapter(type(self))
        # Verdicts are of the rounded numbers, as they are when these are read again.
        plain = _rounded(known.dump_python(self, mode="json", by_alias=True))
        found: dict[str, Any] = known.dump_python(
            known.validate_python(plain), mode="json", by_alias=True
        )
        return found


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How patients were dealt out to sites."""

    how: str = ""
    """Empty in a run of an earlier version."""
    sites: int = 0


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the stages of one name took at one party."""

    seconds: float = 0.0
    device_seconds: float = 0.0
    peak_memory_mib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What went from one party to another."""

    sender: Annotated[str, Field(alias="from")]
    receiver: Annotated[str, Field(alias="to")]
    stage: str
    key: str = ""
    bytes: int
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage of the run."""

    owner: str
    name: str
    """The stage, or the role that it was called for."""
    stage: str
    key: str
    purpose: str = ""
    """The regime that it was for, or `regimes.RELEASE`; empty in a run of an earlier version."""
    seconds: float = 0.0
    device_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MissingSite:
    """What a site that released nothing, or broke later, took with it."""

    site: str
    outcome: str
    reason: str = ""
    models: tuple[str, ...]
    """Regimes that lack its images."""
    images: int
    """That it would have released."""
    of_images: int
    """That all sites would have."""
    wasted_seconds: Annotated[float, Field(alias="vain_seconds")]
    """Of its finished stages that nothing was made of."""
    unfinished_seconds: float


@dataclass(frozen=True, kw_only=True)
class Straggler:
    """The site whose release came last, and for how long the pool waited for it alone."""

    site: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RunSummary(Summary):
    """A finished run: its table, what it was, what it took and what crossed between parties."""

    cohort: str
    data: Mapping[str, str] | None = None
    """By site, a hash of its cases, whatever the fold; None in a run of an earlier version."""
    partition: Partition = Partition()
    contributors: tuple[str, ...] = ()
    """Sites whose releases were to be pooled."""
    experiment_key: str = ""
    experiment: Mapping[str, Any]
    """Its settings as they were written: an earlier version's may have other names."""
    choice: int = 0
    """Version of the rule of `chosen`; 0: of before it had any."""
    reasons: tuple[str, ...] = ()
    """A line for each number that was derived."""
    derived: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By party and stage, results of plans, choices and cards as the stages gave them."""
    compute: Mapping[str, Mapping[str, Spent]] = field(default_factory=dict)
    """By party and name of a stage."""
    ledger: tuple[Transfer, ...] = ()
    unanswered: tuple[str, ...] = ()
    """Parties that were silent when the run was over."""
    versions: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[StageRun, ...] = ()
    missing: tuple[MissingSite, ...] = ()
    straggler: Straggler | None = None


_RUN_SUMMARY = TypeAdapter(RunSummary)


def write_summary(folder: Path, summary: RunSummary) -> None:
    """Write `summary.json` whole or not at all."""
    write_json(folder / SUMMARY, summary.to_json())


def read_summary(folder: Path) -> RunSummary:
    """Read what `write_summary` wrote; what else is in it is left alone.

    Raises:
        HyfreeError: no such file, or one that is not ours.
    """
    path = folder / SUMMARY
    try:
        return _RUN_SUMMARY.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = ".".join(map(str, first["loc"])) + f": {first['msg'].lower()}"
        raise HyfreeError(
            "run.damaged", f"{path}: cannot be read as a summary ({why.removeprefix(': ')})"
        ) from error


def _find(scores: Sequence[Score], regime: str, tested: Tested) -> Score | None:
    found = (score for score in scores if (score.regime, score.tested) == (regime, tested))
    return next(found, None)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, Mapping):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(member) for member in value]
    return value
