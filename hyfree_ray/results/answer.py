"""The last screen of a run: its answer, within 100 x 30 characters for up to five hospitals.

All tables with their notes are those of `table.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyfree_ray.evaluation.regimes import CONTROL, record_of
from hyfree_ray.results.contrasts import Contrast, Tested
from hyfree_ray.results.summary import ALL_SITES, SiteOutcome, Summary
from hyfree_ray.results.table import ADVICE_STYLE, banner, both, new_table, render_dice
from hyfree_ray.results.verdicts import Verdict, percent

SCREEN_WIDTH = 100
"""Characters a line of the answer where nobody says how many there are."""

_ALL_COLUMNS_FROM = 96
"""Width from which on what is shared, at which risk and cost, stands beside the gains."""


def render_answer(summary: Summary) -> RenderableType:
    """Render the verdicts, and one table of what each hospital gains at what risk."""
    return _Answer(summary)


def answer_console() -> Console:
    """Open standard output, as wide as the terminal, or as the answer wants where it is a file."""
    return Console(width=None if sys.stdout.isatty() else SCREEN_WIDTH)


@dataclass(frozen=True)
class _Answer:
    summary: Summary

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        summary = self.summary
        if summary.warning:
            yield banner(summary.warning)
        model = next((one.model for one in summary.verdicts if one.model), "")
        if not model:
            yield from render_dice(summary, options.max_width)
            return
        yield Text("Would sharing help?", style="bold")
        for one in summary.verdicts:
            yield _verdict(one, words=not summary.warning)
        yield Text("")
        yield _gains(summary, model, options.max_width)
        if summary.too_short:
            yield Text(summary.too_short, style="bold yellow")
        yield Text("\n".join(_legend(model)), style="dim")


def _verdict(one: Verdict, *, words: bool) -> Text:
    """Render the advice and, where they mean anything, the words that it stands on."""
    text = Text(f" {one.site}: ").append(one.advice, style=ADVICE_STYLE.get(one.advice, ""))
    if one.false is not None:
        text.append(f" (false: {percent(one.false)})")
    said = [
        f"{where} {contrast.describe().partition(' (')[0]}"  # why is in the report: a line a site
        for where, contrast in (("at home", one.home), ("elsewhere", one.elsewhere))
        if contrast is not None and words
    ]
    return text.append(f"; {', '.join(said)}" if said else "")


def _gains(summary: Summary, model: str, width: int) -> Table:
    wide = width >= _ALL_COLUMNS_FROM
    table = new_table(f"Dice of {model} minus {CONTROL}, with 95 % intervals")
    names = (CONTROL, "gain at home", "gain elsewhere")
    for name in (*names, *(("shares", "attack", "hours") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for site in summary.sites:
        name = site.outcome.site
        alone = both(site.score(CONTROL, "own"), site.score(CONTROL, "foreign"))
        further = _shared(site.outcome) if wide else ()
        table.add_row(Text(name), alone, *_pair(summary, model, name), *further)
    table.add_section()
    alone = both(summary.score(CONTROL, "own"), summary.score(CONTROL, "foreign"))
    images = str(sum(site.outcome.images for site in summary.sites))
    further = (images, "", "") if wide else ()
    table.add_row(ALL_SITES, alone, *_pair(summary, model, None), *further)
    return table


def _shared(outcome: SiteOutcome) -> tuple[str, str, str]:
    """Return images shared, whether an attack on them succeeds, and device hours."""
    released = outcome.outcome == "released"
    attack = ("succeeds" if outcome.attack_succeeds else "fails") if outcome.attack else "-"
    hours = "-" if outcome.device_hours is None else f"{outcome.device_hours:.2g}"
    return str(outcome.images) if released else outcome.outcome, attack, hours


def _pair(summary: Summary, model: str, site: str | None) -> Iterator[str]:
    tested: Tested
    for tested in ("own", "foreign"):
        one = _contrast(summary, model, site, tested)
        yield "-" if one is None else one.format_interval()


def _contrast(summary: Summary, model: str, site: str | None, tested: Tested) -> Contrast | None:
    wanted = (model, CONTROL, site, tested)
    found = (c for c in summary.contrasts if (c.first, c.second, c.site, c.tested) == wanted)
    return next(found, None)


def _legend(model: str) -> list[str]:
    return [
        *(f"{name}: {record_of(name).label}" for name in (model, CONTROL)),
        "home / elsewhere: test patients of the hospital, and of the others. attack: on what it "
        "shares, to tell who was trained on. hours: of its devices.",
    ]
