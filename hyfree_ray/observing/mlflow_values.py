"""What MLflow shows of a run, as names, numbers and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.parties import POOL
from hyfree_ray.results.answer import SCREEN_WIDTH, render_answer
from hyfree_ray.results.summary import RunSummary, Score, Summary
from hyfree_ray.results.table import table_text

_LONGEST_VALUE = 500  # MLflow's limit
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)

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


def contrasts(summary: Summary) -> dict[str, object]:
    """Return the differences over all sites, with the ends of their intervals."""
    return {
        f"{part}.{one.tested}.{one.first}-{one.second}": value
        for one in summary.contrasts
        if one.site is None
        for part, value in (("difference", one.difference), ("low", one.low), ("high", one.high))
    }


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
