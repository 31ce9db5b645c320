"""The final table, as a person reads it in a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyfree_ray.evaluation.metrics import metrics_in_order
from hyfree_ray.evaluation.regimes import CHOSEN, CONTROL, record_of
from hyfree_ray.evaluation.scores import PRIMARY
from hyfree_ray.results.answers import answers
from hyfree_ray.results.contrasts import MIN_PATIENTS, Contrast
from hyfree_ray.results.summary import ALL_SITES, TESTED, TESTED_LABELS, Score, Summary

FILE_WIDTH = 140
"""Characters a line where nobody says how many there are."""

_REGIME_WIDTH, _OTHER_WIDTH = 14, 36
TESTS_FROM_WIDTH = 96
"""Columns from which on effect sizes and p-values are shown."""
STYLE = {"helped": "green", "worse": "red", "no harm": "", "cannot tell": ""}

TESTS = (
    "difference: all test sites have equal weight. effect and p are over all patients together, so "
    "large sites weigh more, and over each patient's mean of seeds, without training noise. "
    "effect: rank-biserial correlation; p: Wilcoxon signed-rank, two-sided, Holm's correction over "
    "the sites and tests of the two regimes; 1-sided: the paper's test, Bonferroni's correction."
)
"""What the columns of a contrast table are."""


def render_table(summary: Summary) -> RenderableType:
    """Render the tables of a run and their notes, for the width that there is."""
    return _Tables(summary)


@dataclass(frozen=True)
class _Tables:
    summary: Summary

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        summary = self.summary
        across = max(1, (options.max_width - _OTHER_WIDTH) // _REGIME_WIDTH)
        for start in range(0, len(summary.regimes), across):
            yield _dice(summary, summary.regimes[start : start + across])
        tables = contrast_rows(summary.contrasts)
        yield from contrast_tables(tables, summary.caveat, options.max_width)
        yield _surface(summary)
        yield _answers(summary)
        yield Text("\n".join(_notes(summary)), style="dim")


def wide_console() -> Console:
    """Open standard output, as wide as the terminal, or as a table wants where it is a file."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)


def table_text(shown: Summary | RenderableType, *, width: int = FILE_WIDTH) -> str:
    """Render as plain text, without colours."""
    if isinstance(shown, Summary):
        shown = render_table(shown)
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, legacy_windows=False).print(shown)
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
    table.add_row(ALL_SITES, str(images), "", *means)
    return table


@dataclass(frozen=True, kw_only=True)
class ContrastRows:
    """What a table of contrasts shows, wherever it is shown."""

    title: str
    header: str
    """Of the names."""
    names: tuple[str, ...]
    """Of the lines."""
    contrasts: tuple[Contrast, ...]


def contrast_rows(contrasts: Sequence[Contrast]) -> Iterable[ContrastRows]:
    """Yield two regimes site by site, all sites last; then all further settings over all."""
    for first, second in dict.fromkeys((c.first, c.second) for c in contrasts):
        if record_of(first).by_site:
            rows = [c for c in contrasts if (c.first, c.second) == (first, second)]
            yield rows_by_site(f"Dice of {first} minus {second}", rows)
    if further := [c for c in contrasts if not record_of(c.first).by_site and c.site is None]:
        yield ContrastRows(
            title=f"Dice of further settings minus {CONTROL}, over all sites",
            header="setting",
            names=tuple(one.first for one in further),
            contrasts=tuple(further),
        )


def regime_notes(regimes: Iterable[str]) -> list[str]:
    """Return what has to be known of the numbers of some regimes."""
    return [note for name in regimes if (note := record_of(name).note)]


def rows_by_site(title: str, contrasts: Sequence[Contrast]) -> ContrastRows:
    """Return the rows of two regimes."""
    names = tuple(ALL_SITES if one.site is None else one.site for one in contrasts)
    return ContrastRows(title=title, header="site", names=names, contrasts=tuple(contrasts))


def contrast_tables(
    shown: Iterable[ContrastRows], caveat: str, width: int
) -> Iterable[RenderableType]:
    """Yield what the intervals cover, once, and below it the tables.

    Args:
        caveat: what no interval covers.
        width: characters; from `TESTS_FROM_WIDTH` on with effect sizes and p-values.
    """
    tables = list(shown)
    if tables:
        everything = [one for rows in tables for one in rows.contrasts]
        yield Text(f"Differences, each with its {covered(everything, caveat)}\n", style="bold")
    for rows in tables:
        yield _contrast_table(rows, tests=width >= TESTS_FROM_WIDTH)


def covered(contrasts: Iterable[Contrast], caveat: str) -> str:
    """Return what the intervals of contrasts are over, and what they do not cover."""
    seeds = {one.seeds for one in contrasts if one.difference is not None} or {1}
    several = f"{'up to ' if len(seeds) > 1 else ''}{max(seeds)} seeds"
    over = "test patients" if max(seeds) < 2 else f"test patients and {several}"
    return "; ".join(filter(None, (f"95 % interval over {over}", caveat)))


def _contrast_table(shown: ContrastRows, *, tests: bool) -> Table:
    """Render a line a contrast: the difference, its interval, what they allow to say."""
    table = _table(shown.title)
    table.columns[0].header = shown.header
    table.add_column("tested on", no_wrap=True)
    table.add_column("difference", no_wrap=True)
    if tests:
        for name in ("effect", "p", "p 1-sided"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("in words", min_width=14)
    before = None
    for name, one in zip(shown.names, shown.contrasts, strict=True):
        if name == ALL_SITES != before:
            table.add_section()
        numbers = [one.format_interval()]
        if tests:
            effect = "-" if one.effect is None else f"{one.effect:+.2f}"
            numbers += [effect, p_value(one.p_holm), p_value(one.p_paper)]
        words = Text(one.describe(), style=STYLE[one.verdict])
        first = Text("" if name == before else name)
        table.add_row(first, TESTED_LABELS[one.tested], *numbers, words)
        before = name
    return table


def _answers(summary: Summary) -> Table:
    """Render what a hospital came to see: last, where a terminal leaves it in view."""
    adopted, found = answers([site.outcome for site in summary.sites], summary.contrasts)
    how = " (chosen by its validation cases)" if adopted == CHOSEN else ""
    table = _table(f"Would sharing help? What each site would keep{how}, Dice against {CONTROL}")
    table.add_column("keeps", no_wrap=True)
    for name in ("at home", "elsewhere", "attack on release"):
        table.add_column(name)
    for one in found:
        cells = [_gain(contrast) for contrast in (one.own, one.foreign)]
        table.add_row(Text(one.site), Text(one.keeps), *cells, Text(one.attack))
    return table


def _gain(contrast: Contrast | None) -> Text:
    if contrast is None:
        return Text("-")
    return Text(contrast.words, style=STYLE[contrast.verdict])


def p_value(value: float | None) -> str:
    """Write a p-value: .012, <.001."""
    if value is None:
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)


def _surface(summary: Summary) -> Table:
    """Render the other metrics, and how many masks were missed or made up, by regime."""
    names = {name for score in summary.overall for name in score.values}
    metrics = [metric for metric in metrics_in_order(names) if metric.name != PRIMARY]
    counts = _listed([metric.miss_counts for metric in metrics])
    table = _table(
        f"{', '.join(metric.description for metric in metrics)};\n"
        f"a missed or made-up mask counts as {counts}"
    )
    table.columns[0].header = ALL_SITES
    table.columns[0].no_wrap = True
    table.add_column("tested on", no_wrap=True)
    for name in (*(metric.label for metric in metrics), "missed", "made up"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for regime in summary.regimes:
        for tested in TESTED:
            score = summary.score(regime, tested)
            if score is not None and score.primary is not None:
                first = Text("" if regime == before else regime)
                cells = [metric.text(score.values.get(metric.name)) for metric in metrics]
                shares = [_share(score.counts, outcome) for outcome in ("missed", "false-alarm")]
                table.add_row(first, TESTED_LABELS[tested], *cells, *shares)
                before = regime
    return table


def _listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _share(counts: Mapping[str, int], outcome: str) -> str:
    """Write how many of how many: missed can be what is in the reference, made up the rest."""
    beside = "scored" if outcome == "missed" else "both-empty"
    number = counts.get(outcome, 0)
    return f"{number}/{number + counts.get(beside, 0)}"


def _notes(summary: Summary) -> Iterable[str]:
    for site in summary.sites:
        if site.outcome.outcome != "released":
            yield f"{site.outcome.site}: release {site.outcome.outcome}: {site.outcome.reason}"
        if site.outcome.flag:
            yield f"{site.outcome.site}: look at its release: {site.outcome.flag}"
    agreement = [
        f"{s.outcome.site} {_fraction(s.outcome.label_agreement)}"
        f"{'' if s.outcome.replayed else ' (not replayed)'}"
        for s in summary.sites
        if s.outcome.label_agreement is not None
    ]
    if agreement:
        yield f"Labels agree with a model trained on the others', Dice: {', '.join(agreement)}."
    yield from summary.notes
    yield from regime_notes(summary.regimes)
    if any(one.difference is not None and one.reason for one in summary.contrasts):
        yield f"No interval is given for fewer than {MIN_PATIENTS} test patients."
    if any(one.p is not None for one in summary.contrasts):
        yield TESTS


def _both(own: Score | None, foreign: Score | None) -> str:
    return " / ".join(
        "-" if score is None else _fraction(score.primary) for score in (own, foreign)
    )
