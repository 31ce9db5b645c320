"""The final table, as a person reads it in a terminal."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyfree_ray.evaluation.metrics import metrics_in_order
from hyfree_ray.evaluation.regimes import CONTROL, record_of
from hyfree_ray.evaluation.scores import PRIMARY
from hyfree_ray.results.contrasts import MIN_PATIENTS, STATED, Contrast
from hyfree_ray.results.summary import (
    ALL_SITES,
    TESTED,
    TESTED_LABELS,
    TESTED_MEANS,
    WORST_SITE,
    Score,
    Summary,
)
from hyfree_ray.results.verdicts import Verdict

FILE_WIDTH = 140
"""Characters a line where nobody says how many there are."""

_REGIME_WIDTH, _OTHER_WIDTH = 14, 36
TESTS_FROM_WIDTH = 96
"""Columns from which on p, what may be false and great losses are shown."""
STYLE = {"helped": "green", "worse": "red", "no harm": "", "cannot tell": ""}

TESTS = (
    "difference: all test sites have equal weight, patients within a site too; interval, words and "
    "p are one inference, of all lines together: 5 % of runs may have any line that says helped or "
    "hurt where nothing differs, half of it for the question stated before (measured: at most 6 %, "
    "but up to 16 % where differences are as skewed as lognormal ones). "
    "false: probability that a line's words are false, by itself. "
    "lost >.1: patients who lost more than .1 of all, and the share that could (Clopper-Pearson)."
)
"""What the columns of a contrast table are."""

PAPER_TEST = (
    "The paper's own test: Wilcoxon's signed ranks, one-sided, over all patients together, so "
    "that large sites weigh more; over each patient's mean of seeds, without training noise; "
    "Bonferroni's correction over all comparisons. Effect: rank-biserial correlation. It asks "
    "whether ranks moved, not means, and no sentence of this report follows it."
)
"""What the report's appendix has to say of it."""


def render_table(summary: Summary) -> RenderableType:
    """Render the tables of a run and their notes, for the width that there is."""
    return _Tables(summary)


@dataclass(frozen=True)
class _Tables:
    summary: Summary

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts(options.max_width):
            if self.summary.warning:
                yield banner(self.summary.warning)
            yield part

    def _parts(self, width: int) -> Iterable[RenderableType]:
        summary = self.summary
        yield Text("\n".join(legend(summary.regimes)), style="dim")
        yield from render_dice(summary, width)
        yield from contrast_tables(contrast_rows(summary.contrasts), summary.caveat, width)
        yield _surface(summary)
        yield Text("\n".join(_notes(summary)), style="dim")
        if summary.verdicts:
            yield render_verdicts(summary.verdicts)


def banner(warning: str) -> Text:
    """Render why no number below means anything."""
    return Text(f"NOT A RESULT: {warning}", style="bold red")


def legend(regimes: Iterable[str]) -> list[str]:
    """Return a line for each short name of tables, in a reader's words."""
    return [
        *(f"{name}: {record_of(name).label}" for name in regimes),
        *(f"{TESTED_LABELS[tested]}: {words}" for tested, words in TESTED_MEANS.items()),
    ]


def render_verdicts(verdicts: Sequence[Verdict]) -> Text:
    """Render what each hospital is told: last, where a terminal leaves it in view."""
    text = Text("Would sharing help?\n", style="bold")
    for one in verdicts:
        name, advice = f"{one.site}: ", one.advice
        text.append(name, style="not bold")
        text.append(advice, style=ADVICE_STYLE.get(advice, ""))
        text.append(f"{one.sentence.removeprefix(name + advice)}.\n", style="not bold")
    text.rstrip()
    return text


ADVICE_STYLE = {"share and take part": "green", "not worth it on this evidence": "red"}


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


def new_table(title: str) -> Table:
    """Return a table with its first column, of names."""
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


def render_dice(summary: Summary, width: int) -> Iterable[Table]:
    """Yield Dice by site and regime, in as many tables as the width asks for."""
    across = max(1, (width - _OTHER_WIDTH) // _REGIME_WIDTH)
    for start in range(0, len(summary.regimes), across):
        yield _dice(summary, summary.regimes[start : start + across])


def _dice(summary: Summary, regimes: Iterable[str]) -> Table:
    regimes = list(regimes)
    table = new_table("Dice on real test cases: own / elsewhere")
    table.add_column("released", justify="right", no_wrap=True)
    table.add_column("rejected", justify="right", no_wrap=True)
    for regime in regimes:
        table.add_column(regime, justify="right", no_wrap=True)
    for site in summary.sites:
        outcome = site.outcome
        released = str(outcome.images) if outcome.outcome == "released" else outcome.outcome
        rate = outcome.rejection_rate
        cells = [
            both(site.score(regime, "own"), site.score(regime, "foreign")) for regime in regimes
        ]
        table.add_row(Text(outcome.site), released, "-" if rate is None else f"{rate:.1%}", *cells)
    table.add_section()
    images = sum(site.outcome.images for site in summary.sites)
    means = [
        both(summary.score(regime, "own"), summary.score(regime, "foreign")) for regime in regimes
    ]
    table.add_row(ALL_SITES, str(images), "", *means)
    worst = [
        both(summary.worst(regime, "own"), summary.worst(regime, "foreign")) for regime in regimes
    ]
    table.add_row(WORST_SITE, "", "", *worst)
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
    for first, second in dict.fromkeys((c.first, c.second) for c in _stated_first(contrasts)):
        if record_of(first).by_site:
            rows = [c for c in contrasts if (c.first, c.second) == (first, second)]
            stated = any(one.family == STATED for one in rows)
            title = f"Dice of {first} minus {second}"
            yield rows_by_site(f"The question stated before: {title}" if stated else title, rows)
    if further := [c for c in contrasts if not record_of(c.first).by_site and c.site is None]:
        yield ContrastRows(
            title=f"Dice of further settings minus {CONTROL}, over all sites",
            header="setting",
            names=tuple(one.first for one in further),
            contrasts=tuple(further),
        )


def _stated_first(contrasts: Sequence[Contrast]) -> list[Contrast]:
    return sorted(contrasts, key=lambda one: one.family != STATED)


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
        yield Text(f"Differences, with their {covered(everything, caveat)}\n", style="bold")
    for rows in tables:
        yield _contrast_table(rows, tests=width >= TESTS_FROM_WIDTH)


def covered(contrasts: Iterable[Contrast], caveat: str) -> str:
    """Return what the intervals of contrasts are over, and what they do not cover."""
    contrasts = list(contrasts)
    seeds = {one.seeds for one in contrasts if one.difference is not None} or {1}
    several = f"{'up to ' if len(seeds) > 1 else ''}{max(seeds)} seeds"
    over = "test patients" if max(seeds) < 2 else f"test patients and {several}"
    families = Counter(one.family for one in contrasts if one.low is not None and one.family)
    together = ", ".join(f"{number} {family}" for family, number in families.items())
    hold = f"95 % intervals over {over}"
    return "; ".join(filter(None, (hold, together and f"together: {together}", caveat)))


def _contrast_table(shown: ContrastRows, *, tests: bool) -> Table:
    """Render a line a contrast: the difference, its interval, what they allow to say."""
    table = new_table(shown.title)
    table.columns[0].header = shown.header
    table.add_column("tested on", no_wrap=True)
    table.add_column("difference", no_wrap=True)
    if tests:
        for name in ("p", "false", "lost >.1"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("in words", min_width=14)
    before = None
    for name, one in zip(shown.names, shown.contrasts, strict=True):
        if name == ALL_SITES != before:
            table.add_section()
        numbers = [one.format_interval()]
        if tests:
            numbers += [p_value(one.p), p_value(one.false), losses(one)]
        said = "; ".join(filter(None, (one.describe(), one.describe_worst())))
        words = Text(said, style=STYLE[one.verdict])
        first = Text("" if name == before else name)
        table.add_row(first, TESTED_LABELS[one.tested], *numbers, words)
        before = name
    return table


def losses(one: Contrast) -> str:
    """Write how many patients lost much, and the share that could: 0/12 ≤23%."""
    if one.lost is None or one.could_lose is None:
        return "-"
    return f"{one.lost}/{one.patients} ≤{math.ceil(100 * one.could_lose)}%"


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
    table = new_table(
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
    effects = [
        f"{s.outcome.site} {s.outcome.effect:+.3f}"
        for s in summary.sites
        if s.outcome.effect is not None
    ]
    if effects:
        yield (
            "A release adds to the general model, Dice on all hospitals' validation cases: "
            f"{', '.join(effects)}."
        )
    if summary.too_short:
        yield summary.too_short
    yield from summary.notes
    yield from regime_notes(summary.regimes)
    if any(one.difference is not None and one.reason for one in summary.contrasts):
        yield f"No interval is given for fewer than {MIN_PATIENTS} test patients."
    if any(one.p is not None for one in summary.contrasts):
        yield TESTS
        yield measured(summary.contrasts)


def measured(contrasts: Iterable[Contrast]) -> str:
    """Return how often intervals by as many patients held the truth, the fewest first."""
    rows = {one.coverage for one in contrasts if one.coverage is not None}
    shown = sorted(rows, key=lambda row: row.patients)
    if len(shown) > 3:
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    by_number = "; ".join(f"{row.patients} patients {row.describe()}" for row in shown)
    return f"Measured coverage of single intervals (docs/RESULTS.md): {by_number}."


def both(own: Score | None, foreign: Score | None) -> str:
    """Write Dice on own test cases and elsewhere: .713 / .688."""
    return " / ".join(
        "-" if score is None else _fraction(score.primary) for score in (own, foreign)
    )
