"""Several runs as a person reads them: in the paper's layout, and one run minus another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.scores import PRIMARY
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.pooled import TWO_RUNS, Cell, Pooled
from hyfree_ray.results.published import published_for
from hyfree_ray.results.table import (
    TESTS,
    ContrastRows,
    banner,
    contrast_rows,
    contrast_tables,
    legend,
    measured,
    regime_notes,
    render_verdicts,
    rows_by_site,
)

_GAP = 3
_FIRST = "tested on"
_WIDEST_SITE = 24
"""Longer names are folded."""


def render_pooled(pooled: Pooled) -> RenderableType:
    """Render runs that were pooled over folds and seeds, for the width that there is."""
    return _Pooled(pooled)


def render_comparison(
    one: str,
    other: str,
    settings: Mapping[str, tuple[Any, Any]],
    contrasts: Sequence[Contrast],
) -> RenderableType:
    """Render what one run's models gained over another's, and the settings that differ."""
    return _Comparison(one, other, settings, contrasts)


@dataclass(frozen=True)
class _Pooled:
    pooled: Pooled

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts(options.max_width):
            if self.pooled.warning:
                yield banner(self.pooled.warning)
            yield part

    def _parts(self, width: int) -> Iterable[RenderableType]:
        pooled = self.pooled
        yield Text(
            f"{pooled.cohort}: {len(pooled.runs)} runs, folds {_listed(pooled.folds)}, "
            f"seeds {_listed(pooled.seeds)}",
            style="bold",
        )
        yield Text("\n".join(legend(pooled.regimes)), style="dim")
        for metric, cells in pooled.cells.items():
            for part in _parts(cells, pooled.sites, width):
                yield _layout(pooled, metric, part)
        yield from contrast_tables(contrast_rows(pooled.contrasts), pooled.caveat, width)
        notes = [*pooled.notes, *regime_notes(pooled.regimes), TESTS]
        notes.append(measured(pooled.contrasts))
        yield Text("\n".join(notes), style="dim")
        if pooled.verdicts:
            yield render_verdicts(pooled.verdicts)


@dataclass(frozen=True)
class _Comparison:
    one: str
    other: str
    settings: Mapping[str, tuple[Any, Any]]
    contrasts: Sequence[Contrast]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.one} minus {self.other}", style="bold")
        for name, (first, second) in self.settings.items():
            yield Text(f"  {name}: {first} against {second}")
        yield from contrast_tables(self._by_regime(), TWO_RUNS, options.max_width)
        yield Text(TESTS, style="dim")

    def _by_regime(self) -> Iterable[ContrastRows]:
        for regime in dict.fromkeys(one.first for one in self.contrasts):
            title = f"Dice of {regime.removeprefix('first:')}: the first run minus the second"
            yield rows_by_site(title, [one for one in self.contrasts if one.first == regime])


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _models(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((cell.regime, cell.train_site) for cell in cells))


def _parts(
    cells: Sequence[Cell], sites: Sequence[str], width: int
) -> Iterable[list[tuple[str, str]]]:
    """Yield models that fit side by side."""
    left = _left(sites) + _GAP
    part: list[tuple[str, str]] = []
    used = left
    for model in _models(cells):
        wide = max(*(len(name) for name in model), len("100.0±10.0")) + _GAP
        if part and used + wide > width:
            yield part
            part, used = [], left
        part.append(model)
        used += wide
    if part:
        yield part


def _left(sites: Sequence[str]) -> int:
    return min(_WIDEST_SITE, max(len(_FIRST), *(len(site) for site in sites)))


def _layout(pooled: Pooled, metric: str, models: Sequence[tuple[str, str]]) -> Table:
    """Render test sites as rows and models as columns, own ones bold: the paper's table 1.

    Below a site stands what the paper has for it, where the cohort is one of the paper's.
    """
    measured = METRICS[metric]
    over = f"mean ± sd over {len(pooled.folds)} folds" if len(pooled.folds) > 1 else "one fold"
    table = Table(
        title=Text(f"{measured.heading} on real test cases, {over}"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column(_FIRST, overflow="fold", min_width=_left(pooled.sites))
    for regime, train in models:
        table.add_column(Text(f"{regime}\n{train}"), justify="right", no_wrap=True)
    found = {(c.regime, c.train_site, c.test_site): c for c in pooled.cells[metric]}
    published = published_for(pooled.cohort, pooled.sites, pooled.partition)
    known = {
        (regime, train, test): Cell(
            regime=regime, train_site=train, test_site=test, mean=mean, sd=sd, folds=5
        )
        for (regime, train, test), (mean, sd) in published.dice.items()
        if metric == PRIMARY
    }
    for site in pooled.sites:
        cells = [
            _cell(found.get((regime, train, site)), measured.scale, own=train == site)
            for regime, train in models
        ]
        table.add_row(Text(site), *cells)
        theirs = [known.get((regime, train, site)) for regime, train in models]
        if any(theirs):
            table.add_row(
                Text("  published", style="dim"),
                *(Text("") if c is None else _cell(c, measured.scale, own=False) for c in theirs),
            )
    if known:
        table.caption = Text(published.source)
        table.caption_justify = "left"
    return table


def _cell(cell: Cell | None, scale: float, *, own: bool) -> Text:
    if cell is None:
        return Text("-")
    spread = "" if cell.sd is None else f"±{cell.sd * scale:.1f}"
    return Text(f"{cell.mean * scale:.1f}{spread}", style="bold" if own else "")
