"""A study as a whole: its trials run, on Ray Tune or one after the other, and what they leave."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.files import replacing, write_json
from hyfree_ray.results.finished import CURVE_FILE, Finished, Point, read_finished
from hyfree_ray.results.summary import TESTED_LABELS
from hyfree_ray.runners.run import connected
from hyfree_ray.studies.curves import Group, curve_points, grouped, same_scores, write_scaling
from hyfree_ray.studies.designs import phases
from hyfree_ray.studies.findings import Findings, find
from hyfree_ray.studies.grids import Reading
from hyfree_ray.studies.trials import StudyFolder, Trial

_SHOWN = frozenset({".csv", ".json", ".md", ".png"})
"""Endings of the files of a study's folder that MLflow shows, too."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found."""

    folder: Path
    trials: tuple[Trial, ...]
    runs: Mapping[str, Finished]
    """By the trials' names."""
    groups: tuple[Group, ...]
    same_scores: tuple[Sequence[str], ...]
    """Names of groups whose runs scored the very same."""
    findings: Findings | None = None
    """What the study's file asks to be read from its runs."""

    def to_json(self) -> dict[str, Any]:
        """Describe it as plain JSON values."""
        return {
            "folder": str(self.folder),
            "trials": [
                {"draw": t.draw, "sites": t.sites, **t.values, "run": self.runs[t.name].name}
                for t in self.trials
            ],
            "curve": [
                {
                    "name": group.name,
                    "sites": group.sites,
                    "draws": group.draws,
                    "runs": group.runs,
                    "contrasts": [one.to_json() for one in group.contrasts],
                }
                for group in self.groups
            ],
            "same_scores": self.same_scores,
            **({} if self.findings is None else {"report": self.findings.numbers}),
        }


def run_trials(
    trials: Sequence[Trial],
    folder: StudyFolder,
    *,
    parallel: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Run trials: first those that train what the others need.

    Args:
        trials: all of them run, whether or not they did before.
        folder: where; this process has joined its runtime's cluster where that has an address.
        parallel: trials at a time; None: one a device.
        report: called with the name of each trial that has ended well, as it ends.

    Raises:
        ChildError: a trial failed.
    """
    if folder.runtime.ray == "off":
        for trial in (trial for phase in phases(trials) for trial in phase):
            folder.run(trial, "off")
            report(trial.name)
        return
    from hyfree_ray.runners.ray_tune import run_on_tune

    here = folder.runtime.ray == "local"
    most = max(len(trial.simulation.party_names) for trial in trials)
    actors = (parallel or os.cpu_count() or 1) * (most + 2)  # its scheduler, the trial itself
    with connected("local", actors) if here else contextlib.nullcontext():
        for phase in filter(None, phases(trials)):
            run_on_tune(
                [trial.name for trial in phase],
                functools.partial(_run_named, folder, {trial.name: trial for trial in phase}),
                scratch=folder.folder / "tune",
                log_file=folder.logs / "tune.txt",
                parallel=parallel,
                report=report,
            )


def _run_named(folder: StudyFolder, trials: Mapping[str, Trial], name: str, address: str) -> None:
    folder.run(trials[name], address)


def finish_study(
    trials: Sequence[Trial], folder: StudyFolder, reading: Reading | None = None
) -> StudyResult:
    """Write what a study leaves in its folder and in MLflow, once all of its trials have run.

    Args:
        trials: all of them.
        folder: where they ran.
        reading: what is to be read from their runs, beside contrasts.

    Raises:
        HyfreeError: runs that do not belong together.
    """
    store = folder.runtime.store
    runs = {trial.name: read_finished(store / "runs" / folder.run_of(trial)) for trial in trials}
    groups = grouped(trials, runs)
    write_scaling(folder.folder / "scaling.csv", trials, runs)
    points = curve_points(groups)
    write_json(folder.folder / CURVE_FILE, points)
    for ending in ("svg", "png"):  # of a grid that the file held before
        (folder.folder / f"scaling.{ending}").unlink(missing_ok=True)
    if points:
        _draw(folder.folder, points)
    findings = None
    if reading is not None and reading.regimes:
        findings = find(reading, trials, runs)
        findings.write(folder.folder)
    _track(runs, groups, folder)
    return StudyResult(
        folder=folder.folder,
        trials=tuple(trials),
        runs=runs,
        groups=tuple(groups),
        same_scores=tuple(same_scores(trials, runs)),
        findings=findings,
    )


def _track(runs: Mapping[str, Finished], groups: Sequence[Group], folder: StudyFolder) -> None:
    """Show the study in MLflow as the parent of its simulations."""
    from hyfree_ray.observing.mlflow import Tracker
    from hyfree_ray.observing.mlflow_values import contrasts

    cohort = next(iter(runs.values())).summary.cohort
    numbers: dict[str, object] = {
        f"{group.name}/{name}": value
        for group in groups
        for name, value in contrasts(group.contrasts).items()
    }
    numbers["trials"] = len(runs)
    tracker = Tracker(folder.runtime.store, folder.folder.name, cohort, {})
    files = sorted(file for file in folder.folder.iterdir() if file.suffix in _SHOWN)
    names = sorted({run.name for run in runs.values()})
    tracker.adopt(names, numbers, _describe(groups), files)


def _describe(groups: Sequence[Group]) -> str:
    """Write a study's pooled differences as a table in Markdown."""
    lines = [
        "Differences of Dice over all sites, with intervals that hold together.",
        "",
        "| study | runs | compared | tested on | difference | in words |",
        "|---|---|---|---|---|---|",
    ]
    for group in groups:
        for one in group.contrasts:
            pair = f"{one.first} minus {one.second}"
            cells = (pair, TESTED_LABELS[one.tested], one.format_interval(), one.describe())
            lines.append(f"| {group.name} | {group.runs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(folder: Path, points: Mapping[str, Sequence[Point]]) -> None:
    from hyfree_ray.reports.figures import curve, drawn

    figure = drawn("scaling", lambda theme: curve(theme, points, "difference of Dice"))
    for ending, content in (("svg", figure.light_svg), ("png", figure.png)):
        with replacing(folder / f"scaling.{ending}") as file:
            file.write(content)
