"""A report of one run or several as one HTML file that needs no network and no script.

It is made from a run's folder alone: rows, records and contact sheets of synthetic images. No real
image is in it, unless a site names its own audit folder.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing
from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.regimes import CHOSEN, CONTROL, THE_OTHERS, candidates, record_of
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow
from hyfree_ray.reports import figures
from hyfree_ray.reports.gantt import gantt
from hyfree_ray.reports.pages import render
from hyfree_ray.reports.parts import Table, of_run, table
from hyfree_ray.reports.prices import curve_panels, trade_offs
from hyfree_ray.reports.trade_offs import frontier, learning_curves
from hyfree_ray.results.contrasts import STATED, Contrast
from hyfree_ray.results.finished import BY_STEP, Finished, Point, training_samples
from hyfree_ray.results.means import patient_means, site_mean
from hyfree_ray.results.pooled import Pooled, fewer_folds, pool_runs
from hyfree_ray.results.summary import TESTED, TESTED_LABELS
from hyfree_ray.results.table import (
    PAPER_TEST,
    TESTS,
    ContrastRows,
    contrast_rows,
    covered,
    legend,
    losses,
    p_value,
    regime_notes,
)
from hyfree_ray.results.timeline import Event, critical_path, last_session, read_timeline

REPORT = "report.html"

_LONGEST_STAGES = 10
"""Of the critical path that are shown at first sight."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A picture that is embedded."""

    site: str
    source: str
    """A data URI."""


def write_report(
    runs: Sequence[Finished],
    out: Path,
    *,
    curve: Mapping[str, Sequence[Point]] | None = None,
    real: Sequence[Path] = (),
) -> Path:
    """Write `report.html`, `figures/*.png`, `figures/*.svg` and an experiment file a run.

    Args:
        runs: one run, or several that differ in fold and seed alone.
        out: folder to write to.
        curve: of a study of the number of sites.
        real: audit folders of sites, whose pictures are embedded.

    Raises:
        HyfreeError: runs that do not belong together, or a folder without pictures.
    """
    pooled = pool_runs(runs)
    pictures = [sheet for folder in real for sheet in _audit(folder)]
    statistics = _statistics(pooled)
    charts = {figure.name: figure for figure in statistics["figures"]}
    scaling = None
    if curve:
        charts["scaling"] = figures.drawn(
            "scaling", lambda theme: figures.curve(theme, curve, "difference of Dice")
        )
        scaling = sources(charts["scaling"])
    parts = []
    for run in runs:
        part = of_run(run)
        part["samples"] = [
            Sheet(site=path.stem, source=_uri(path.read_bytes(), "image/png"))
            for path in sorted((run.folder / "samples").glob("*.png"))
        ]
        part["by_step"] = _by_step(run.folder)
        part |= _timeline(run, charts) | _trained(run, charts)
        parts.append(part)
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures").mkdir(exist_ok=True)
    for figure in charts.values():
        for ending, content in (("svg", figure.light_svg), ("png", figure.png)):
            _write(out / "figures" / f"{figure.name}.{ending}", content)
    for part in parts:
        _write(out / part["config_name"], part["config"].encode())
    html = render(
        REPORT,
        **statistics["page"],
        verdicts=pooled.verdicts,
        warning=pooled.warning,
        scaling=scaling,
        runs=parts,
        real=pictures,
        title=_title(pooled),
        subtitle=_sub(pooled),
    )
    _write(out / REPORT, html.encode())
    return out / REPORT


def _title(pooled: Pooled) -> str:
    return f"Does sharing help? {pooled.cohort}, {len(pooled.sites)} sites"


def _sub(pooled: Pooled) -> str:
    def listed(name: str, numbers: Sequence[int]) -> str:
        plural = "s" if len(numbers) > 1 else ""
        return f"{name}{plural} {', '.join(str(number) for number in numbers)}"

    return (
        f"{', '.join(pooled.runs)}. Test {listed('fold', pooled.folds)}; "
        f"{listed('seed', pooled.seeds)}."
    )


def _statistics(pooled: Pooled) -> dict[str, Any]:
    boxes, means = _by_patient(pooled.rows, pooled.sites)
    known = [one for one in pooled.contrasts if one.difference is not None]
    headlines = [(name, CONTROL) for name in (CHOSEN, *candidates()) if name != CONTROL]
    charts = {
        "boxes": figures.drawn(
            "dice-by-test-site",
            lambda theme: figures.box_plots(theme, boxes, pooled.regimes, pooled.sites),
        ),
        "matrix": figures.drawn(
            "dice-matrix",
            lambda theme: figures.matrices(theme, means, pooled.regimes, pooled.sites),
        ),
    }
    if by_site := [one for one in known if record_of(one.first).by_site]:
        charts["forest"] = figures.drawn("contrasts", lambda theme: figures.forest(theme, by_site))
    page: dict[str, Any] = {"forest": None}
    page |= {name: sources(figure) for name, figure in charts.items()}
    page |= {
        "answers": [
            _answer(one)
            for tested in TESTED
            for pair in headlines
            for one in known
            if one.site is None and one.tested == tested and (one.first, one.second) == pair
        ],
        "covered": covered(known, pooled.caveat),
        "legend": [line.split(": ", 1) for line in legend(pooled.regimes)],
        "tests": " ".join([TESTS, *regime_notes(pooled.regimes)]),
        "paper_test": PAPER_TEST,
        "appendix": [_paper_test(shown) for shown in contrast_rows(known)],
        "layouts": [_layout(pooled, metric) for metric in pooled.cells],
        **_by_family(list(contrast_rows(known))),
    }
    return {"figures": tuple(charts.values()), "page": page}


def _answer(one: Contrast) -> dict[str, str]:
    where = "at home" if one.tested == "own" else "at the other sites"
    return {
        "question": f"{one.first} against {one.second}, {where}",
        "numbers": one.format_interval(),
        "words": "; ".join(filter(None, (one.describe(), one.describe_worst()))),
        "mark": one.verdict.replace(" ", "-"),
    }


def _by_patient(
    rows: Iterable[ScoreRow], sites: Sequence[str]
) -> tuple[dict[tuple[str, str, str], list[float]], dict[tuple[str, str, str], float]]:
    """Return Dice of patients for the box plots, and its mean for the matrix."""
    by_model = patient_means(
        replace(row, train_site=THE_OTHERS) if record_of(row.regime).foreign_only else row
        for row in rows
        if row.metric == PRIMARY
    )
    found: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for (regime, train, test), patients in by_model.items():
        side = "foreign" if train in {*sites, THE_OTHERS} - {test} else "own"
        for patient, by_seed in patients.items():
            found[regime, test, side][patient].append(fmean(by_seed.values()))
    boxes = {
        key: [fmean(values) for _, values in sorted(patients.items())]
        for key, patients in found.items()
    }
    return boxes, {model: site_mean(patients, PRIMARY) for model, patients in by_model.items()}


def _layout(pooled: Pooled, metric: str) -> Table:
    """Turn the paper's layout over: a row a model, so that many sites fit a page."""
    measured = METRICS[metric]
    over = "mean ± sd over the folds" if len(pooled.folds) > 1 else "mean of the patients"
    cells = {(c.regime, c.train_site, c.test_site): c for c in pooled.cells[metric]}
    models = list(dict.fromkeys((c.regime, c.train_site) for c in pooled.cells[metric]))

    def shown(key: tuple[str, str, str]) -> str:
        cell = cells.get(key)
        if cell is None:
            return "–"
        spread = "" if cell.sd is None else f" ± {cell.sd * measured.scale:.1f}"
        return f"{cell.mean * measured.scale:.1f}{spread}"

    return table(
        ["regime", "trained at", *pooled.sites],
        [
            [regime, train, *(shown((regime, train, test)) for test in pooled.sites)]
            for regime, train in models
        ],
        caption="; ".join(
            (
                f"{measured.heading} by test site, {over}",
                *fewer_folds(pooled.cells[metric], len(pooled.folds)),
            )
        ),
        texts={1},
    )


def _by_family(found: Sequence[ContrastRows]) -> dict[str, list[Table]]:
    """Tabulate the question that was stated before; all others apart."""
    stated = [one for one in found if any(c.family == STATED for c in one.contrasts)]
    further = [one for one in found if one not in stated]
    return {
        "stated": [_contrasts(one) for one in stated],
        "further": [_contrasts(one) for one in further],
    }


def _contrasts(shown: ContrastRows) -> Table:
    """Tabulate as in the terminal, with how often such intervals were seen to hold."""
    cells = [
        [
            name,
            TESTED_LABELS[one.tested],
            one.format_interval(),
            str(one.patients),
            "-" if one.coverage is None else one.coverage.describe(),
            p_value(one.p),
            p_value(one.false),
            losses(one),
            "; ".join(filter(None, (one.describe(), one.describe_worst()))),
        ]
        for name, one in zip(shown.names, shown.contrasts, strict=True)
    ]
    columns = [shown.header, "tested on", "difference", "patients", "measured coverage", "p"]
    return table(
        [*columns, "false", "lost >.1", "in words"],
        cells,
        caption=shown.title,
        texts={1, 4, 8},
        marks=[one.verdict.replace(" ", "-") for one in shown.contrasts],
    )


def _paper_test(shown: ContrastRows) -> Table:
    """Tabulate the paper's own test, which no words follow."""
    cells = [
        [
            name,
            TESTED_LABELS[one.tested],
            "-" if one.effect is None else f"{one.effect:+.2f}",
            p_value(one.p_paper),
        ]
        for name, one in zip(shown.names, shown.contrasts, strict=True)
    ]
    columns = [shown.header, "tested on", "effect", "p, Wilcoxon, 1-sided"]
    return table(columns, cells, caption=shown.title, texts={1})


def _timeline(run: Finished, charts: dict[str, figures.Drawn]) -> dict[str, Any]:
    """Draw a run's last session; the figure is added to the charts."""
    events = read_timeline(run.folder)
    shown = last_session(events)
    if not shown:
        none = table([], [])
        return {"gantt": None, "gantt_caption": "", "path": none, "whole_path": none}
    path = critical_path(shown)
    name = f"timeline-{run.name}"
    charts[name] = figures.drawn(name, lambda theme: gantt(theme, shown, path))
    earlier = len(events) - len(shown)
    caption = "Stages by party; framed: the critical path. " + (
        f"{earlier} stages were done earlier and are not shown." if earlier else ""
    )
    begun = shown[0].start
    total = max(event.end for event in shown) - begun
    longest = sorted(path, key=lambda event: -event.seconds)[:_LONGEST_STAGES]
    rest = sum(event.seconds for event in path if event not in longest)
    said = f"Critical path: {sum(e.seconds for e in path):.0f} of {total:.0f} s"
    if len(path) > len(longest):
        said += f"; its {len(longest)} longest stages of {len(path)}, the others take {rest:.0f} s"

    def tabulated(events: Sequence[Event], caption: str) -> Table:
        rows = [
            [event.name, event.party, f"{event.start - begun:.0f}", f"{event.seconds:.0f}"]
            for event in events
        ]
        return table(["stage", "party", "began, s", "took, s"], rows, caption=caption, texts={1})

    return {
        "gantt": sources(charts[name]),
        "gantt_caption": caption,
        "path": tabulated([event for event in path if event in longest], said),
        "whole_path": tabulated(path if len(path) > len(longest) else [], ""),
    }


def _trained(run: Finished, charts: dict[str, figures.Drawn]) -> dict[str, Any]:
    """Draw what Dice was paid for with, and how trainings went; the figures join the charts."""
    found: dict[str, Any] = {"frontier": None, "curves": None}
    if panels := trade_offs(run):
        name = f"frontier-{run.name}"
        charts[name] = figures.drawn(name, lambda theme: frontier(theme, panels))
        found["frontier"] = sources(charts[name])
    if trainings := curve_panels(run):
        name = f"curves-{run.name}"
        charts[name] = figures.drawn(name, lambda theme: learning_curves(theme, trainings))
        found["curves"] = sources(charts[name])
    return found


def _by_step(folder: Path) -> dict[str, list[Sheet]]:
    """Return a phantom site's samples by training step, and its new patients, by site."""
    found: dict[str, list[Sheet]] = {}
    for site, pictures in training_samples(folder).items():
        strips = [(f"{shown} images shown", path) for shown, path in pictures.items()]
        new = folder / BY_STEP / site / "new-patients.png"
        strips += [("new patients, drawn from the phantom", new)] if new.is_file() else []
        found[site] = [
            Sheet(site=label, source=_uri(path.read_bytes(), "image/png")) for label, path in strips
        ]
    return found


def _audit(folder: Path) -> list[Sheet]:
    found = sorted(folder.glob("*.png"))
    if not found:
        raise HyfreeError(
            "report.no-pictures",
            f"--with-real {folder}: no pictures; name a site's audit folder, e.g. "
            "STORE/sites/site-1/audit",
        )
    return [Sheet(site=path.stem, source=_uri(path.read_bytes(), "image/png")) for path in found]


def sources(figure: figures.Drawn) -> Mapping[str, str]:
    """Return a figure as data URIs for a light and a dark page."""
    return {
        "light": _uri(figure.light_svg, "image/svg+xml"),
        "dark": _uri(figure.dark_svg, "image/svg+xml"),
    }


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)
