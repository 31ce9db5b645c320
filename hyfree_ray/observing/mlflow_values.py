"""What MLflow shows of a run, as names, numbers and text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hyfree_ray.core.parties import POOL
from hyfree_ray.results.answer import SCREEN_WIDTH, render_answer
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.summary import RunSummary, Score, Summary
from hyfree_ray.results.table import table_text

_LONGEST_VALUE = 500  # MLflow's limit
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description, in Markdown."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)

_NOT_CURVES = frozenset({"step", "total", "time"})

Scalar = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """A model to register."""

    name: str
    folder: Path
    """nnU-Net's results folder, as `write_results_folder` writes it."""
    card: str
    """Markdown."""


def lineage(summary: Summary) -> dict[str, dict[str, str]]:
    """Return what runs were made of, by the run's key: names of data and releases to hashes."""
    if not isinstance(summary, RunSummary):
        return {}
    data = {f"{site}: images": digest for site, digest in (summary.data or {}).items()}
    releases = {
        f"{one.sender}: release": one.sha256
        for one in summary.ledger
        if one.stage == "release" and one.receiver == POOL
    }
    sites = {f"site/{site}": {f"{site}: images": d} for site, d in (summary.data or {}).items()}
    return {"run": data, **sites, f"site/{POOL}": releases}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Scalar]]:
    """Flatten JSON to `outer.inner` names; a list is one value, as text."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", json.dumps(value)
        else:
            yield f"{prefix}{name}", value


def scores(scores: Iterable[Score]) -> dict[str, object]:
    """Return scores as METRIC.TESTED.REGIME."""
    return {
        f"{metric}.{score.tested}.{score.regime}": value
        for score in scores
        for metric, value in score.values.items()
    }


def contrasts(found: Iterable[Contrast], site: str | None = None) -> dict[str, object]:
    """Return the differences of one site's models, or over all sites, as PART.TESTED.FIRST-SECOND.

    PART is difference, low or high, the ends of its interval, or p.
    """
    return {
        f"{part}.{one.tested}.{one.first}-{one.second}": value
        for one in found
        if one.site == site
        for part, value in (
            ("difference", one.difference),
            ("low", one.low),
            ("high", one.high),
            ("p", one.p),
        )
    }


def verdict(summary: Summary, site: str) -> tuple[dict[str, str], dict[str, object]]:
    """Return what a hospital is told as tags, and how likely that is false as a number."""
    told = next((one for one in summary.verdicts if one.site == site), None)
    if told is None:
        return {}, {}
    return {"verdict": told.advice, NOTE: told.sentence}, {"verdict.false": told.false}


def description(summary: Summary) -> str:
    """Describe a simulation in Markdown, as the page of its run shows it: its hospitals, and the
    answer as it is printed."""
    names = ", ".join(site.outcome.site for site in summary.sites)
    return (
        f"Hospitals: {names}. Metrics are METRIC.TESTED.REGIME, with TESTED own or foreign (the "
        "other hospitals' patients); differences are of Dice.\n\n"
        f"```text\n{table_text(render_answer(summary), width=SCREEN_WIDTH).rstrip()}\n```"
    )


def columns(summary: Summary) -> dict[str, list[Any]]:
    """Return the table, a row a site, as columns."""
    rows = [
        {
            "site": site.outcome.site,
            "outcome": site.outcome.outcome,
            "released": site.outcome.images,
            "rejection rate": site.outcome.rejection_rate,
            **scores(site.scores),
        }
        for site in summary.sites
    ]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {"site": []}


def valid_name(text: str) -> str:
    """Make a name that MLflow takes; label names, part of some, come from users."""
    return _NOT_IN_NAMES.sub("_", text).strip("/ .")[:250] or "_"


def parameter_text(value: Scalar) -> str:
    """Write a parameter; of a path only the name: where a site keeps its files is its own."""
    text = str(value)
    return (Path(text).name if Path(text).is_absolute() else text)[:_LONGEST_VALUE]


class Point(NamedTuple):
    """A number as MLflow keeps it."""

    key: str
    value: float
    timestamp: int
    """ms since 1970."""
    step: int = 0


def milliseconds(seconds: float) -> int:
    """Return a time as MLflow writes it."""
    return round(seconds * 1000)


def numbers_at(values: Mapping[str, object], at: float) -> list[Point]:
    """Return what is a finite number of some values, all of one time (s since 1970)."""
    points = (_point(name, value, at) for name, value in values.items())
    return [point for point in points if point is not None]


def points_of(curve: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return a curve's points, each at its own step and time."""
    points = (
        _point(name, value, line["time"], int(line["step"]))
        for line in curve
        for name, value in line.items()
        if name not in _NOT_CURVES
    )
    return [point for point in points if point is not None]


def _point(name: str, value: object, at: float, step: int = 0) -> Point | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return Point(valid_name(name), float(value), milliseconds(at), step)
