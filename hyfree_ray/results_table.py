"""The final table, as a person reads it in a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyfree_ray.contrasts import LEAST_PATIENTS, Contrast
from hyfree_ray.results import CONTRASTS, Score, Summary

FILE_WIDTH = 120
"""Characters a line where nobody says how many there are."""

_REGIME_WIDTH, _OTHER_WIDTH = 14, 36
_STYLE = {"helped": "green", "did not": "red", "cannot tell": ""}


def render_table(summary: Summary) -> RenderableType:
    """The tables of a run and the notes that belong to them, for the width that there is."""
    return _Tables(summary)


@dataclass(frozen=True)
class _Tables:
    summary: Summary

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        summary = self.summary
        across = max(1, (options.max_width - _OTHER_WIDTH) // _REGIME_WIDTH)
        for start in range(0, len(summary.regimes), across):
            yield _dice(summary, summary.regimes[start : start + across])
        made = {(one.first, one.second) for one in summary.contrasts}
        for first, second in (pair for pair in CONTRASTS if pair in made):
            yield _contrasts(summary, first, second)
        yield _surface(summary)
        yield Text("\n".join(_notes(summary)), style="dim")


def wide_console() -> Console:
    """Standard output: as wide as the terminal, or as the table wants where it is a file."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)


def table_text(summary: Summary, *, width: int = FILE_WIDTH) -> str:
    """The same as plain text, without colours."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(
        render_table(summary)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _table(title: str) -> Table:
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    # The only column that may wrap: names come from users, numbers are of known width.
    table.add_column("site", overflow="fold", min_width=8)
    return table


def _dice(summary: Summary, regimes: Iterable[str]) -> Table:
    regimes = list(regimes)
    table = _table("Dice on real test cases: own site / mean of the other sites")
    table.add_column("released", justify="right", no_wrap=True)
    table.add_column("rejected", justify="right", no_wrap=True)
    for regime in regimes:
        table.add_column(regime, justify="right", no_wrap=True)
    for site in summary.sites:
        outcome = site.outcome
        released = str(outcome.images) if outcome.outcome == "released" else outcome.outcome
        rate = outcome.rejection_rate
        cells = [
            _both(site.score(regime, "own"), site.score(regime, "foreign")) for regime in regimes
        ]
        table.add_row(Text(outcome.site), released, "-" if rate is None else f"{rate:.1%}", *cells)
    table.add_section()
    images = sum(site.outcome.images for site in summary.sites)
    means = [
        _both(summary.score(regime, "own"), summary.score(regime, "foreign")) for regime in regimes
    ]
    table.add_row("all sites", str(images), "", *means)
    return table


def _contrasts(summary: Summary, first: str, second: str) -> Table:
    covered = "; ".join(filter(None, ("95 % interval over test patients", summary.caveat)))
    table = _table(f"Dice of {first} minus {second}\n[{covered}]")
    table.add_column("own test cases")
    table.add_column("the other sites' test cases")
    for site in (*(site.outcome.site for site in summary.sites), None):
        found = {
            one.tested: one
            for one in summary.contrasts
            if (one.first, one.second, one.site) == (first, second, site)
        }
        if site is None:
            table.add_section()
        name = Text("all sites" if site is None else site)
        table.add_row(name, *(_words(found[tested]) for tested in ("own", "foreign")))
    return table


def _surface(summary: Summary) -> Table:
    """HD95, and how many masks were missed or made up, all regimes below each other."""
    table = _table("HD95 in mm; a missed or made-up mask counts as the diagonal")
    table.columns[0].header = "all sites"
    table.columns[0].no_wrap = True
    for name in ("own", "missed", "made up", "others", "missed", "made up"):
        table.add_column(name, justify="right", no_wrap=True)
    for regime in summary.regimes:
        cells: list[str] = []
        for score in (summary.score(regime, "own"), summary.score(regime, "foreign")):
            hd95 = None if score is None else score.hd95
            cells.append("-" if hd95 is None else f"{hd95:.1f}")
            counts = {} if score is None else score.counts
            cells += [_share(counts, outcome) for outcome in ("missed", "false-alarm")]
        table.add_row(Text(regime), *cells)
    return table


def _share(counts: dict[str, int], outcome: str) -> str:
    """How many of how many: what can be missed is in the reference, made up what is not."""
    beside = "scored" if outcome == "missed" else "both-empty"
    number = counts.get(outcome, 0)
    return f"{number}/{number + counts.get(beside, 0)}"


def _notes(summary: Summary) -> Iterable[str]:
    for site in summary.sites:
        if site.outcome.outcome != "released":
            yield f"{site.outcome.site}: release {site.outcome.outcome}: {site.outcome.reason}"
    chosen = [f"{s.outcome.site} {s.outcome.chosen}" for s in summary.sites if s.outcome.chosen]
    if chosen:
        yield f"Chosen by validation cases: {', '.join(chosen)}."
    if any(one.difference is not None and one.reason for one in summary.contrasts):
        yield f"No interval is given under {LEAST_PATIENTS} test patients."


def _words(one: Contrast) -> Text:
    return Text(one.words, style=_STYLE[one.verdict])


def _both(own: Score | None, foreign: Score | None) -> str:
    return " / ".join(
        "-" if score is None or score.dice is None else f"{score.dice:.3f}".lstrip("0")
        for score in (own, foreign)
    )
