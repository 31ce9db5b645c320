"""What MLflow shows of a run, as names, numbers and text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hyfree_ray.results.answer import SCREEN_WIDTH, render_answer
from hyfree_ray.results.summary import Score, Summary
from hyfree_ray.results.table import table_text

Scalar = str | int | float | bool | None


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
