"""Finished runs, as they lie in a store: found by name, and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hyfree_ray
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.evaluation.regimes import CHOSEN
from hyfree_ray.evaluation.scores import ScoreRow, read_results
from hyfree_ray.results.summary import SUMMARY, RunSummary, read_summary

CURVE_FILE = "curve.json"
"""In a study's folder: contrasts by number of sites."""

BY_STEP = "by_step"
"""Folder in a run's folder: by phantom site, a picture of samples for each step of its training."""

_SHOWN = "tracked"
"""File in a run's folder: MLflow shows all of it."""

_WRITTEN = "written"
"""File in a run's folder: it is whole. Its content is the code that wrote it."""

Point = tuple[int, float, float | None, float | None]
"""Number of sites, difference, and its interval where there is one."""


@cache
def _code() -> str:
    """Hash this package's sources."""
    sources = sorted(Path(hyfree_ray.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def mark_written(folder: Path) -> None:
    """Note that this code has written a run's folder, and all of it."""
    (folder / _WRITTEN).write_text(_code())


def mark_shown(folder: Path) -> None:
    """Note that MLflow shows what a run's folder says."""
    (folder / _SHOWN).touch()


def mark_hidden(folder: Path) -> None:
    """Take back what `mark_shown` noted."""
    (folder / _SHOWN).unlink(missing_ok=True)


def mark_outdated(folder: Path) -> None:
    """Take all notes back: the store is about to hold more than a run's folder says."""
    mark_hidden(folder)
    (folder / _WRITTEN).unlink(missing_ok=True)


def is_shown(folder: Path) -> bool:
    """Return whether MLflow shows what a run's folder says, whatever code wrote it."""
    return (folder / _SHOWN).is_file()


def is_written(folder: Path) -> bool:
    """Return whether a run's folder is what this code would write from the same records."""
    try:
        return (folder / _WRITTEN).read_bytes() == _code().encode()
    except OSError:
        return False


def is_current(folder: Path) -> bool:
    """Return whether there is nothing left to write, and nothing to show in MLflow."""
    return is_written(folder) and is_shown(folder)


def training_samples(folder: Path) -> dict[str, dict[int, Path]]:
    """Return the pictures of samples in a run's folder, by site and images shown until then."""
    found: dict[str, dict[int, Path]] = {}
    for picture in sorted((folder / BY_STEP).glob("*/step-*.png")):
        found.setdefault(picture.parent.name, {})[int(picture.stem.split("-")[1])] = picture
    return found


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has ended, and all that it left."""

    folder: Path
    summary: RunSummary
    rows: tuple[ScoreRow, ...]

    @property
    def name(self) -> str:
        """The run's."""
        return self.folder.name

    @property
    def fold(self) -> int:
        """The test fold."""
        return int(self.summary.experiment["fold"])

    @property
    def seed(self) -> int:
        """The experiment's."""
        return int(self.summary.experiment["seed"])

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(site.outcome.site for site in self.summary.sites)

    @property
    def contributors(self) -> tuple[str, ...]:
        """Sites whose releases were to be pooled."""
        return self.summary.contributors or self.sites

    @property
    def withdrawn(self) -> tuple[str, ...]:
        """Sites that had withdrawn when it ended."""
        outcomes = [site.outcome for site in self.summary.sites]
        return tuple(one.site for one in outcomes if one.outcome == "withdrawn")

    @property
    def choice(self) -> int | None:
        """Version of the rule of `chosen`; 0: of before it had any; None: there is no `chosen`."""
        chosen = any(row.regime == CHOSEN for row in self.rows)
        return self.summary.choice if chosen else None

    def data_of(self, site: str) -> str:
        """Return a hash of a site's cases, whatever the fold: equal for the same patients.

        Raises:
            HyfreeError: a run of an earlier version, which did not say.
        """
        if self.summary.data is None or site not in self.summary.data:
            raise HyfreeError(
                "run.other-version",
                f"{self.name}: the run does not record its patients; run its 'simulate' command "
                "again with this version",
            )
        return self.summary.data[site]


def finished_folders(store: Path) -> list[Path]:
    """List the folders of finished runs, the newest last; at least one.

    Raises:
        HyfreeError: there is none.
    """
    found = sorted(
        (file.parent for file in (store / "runs").glob(f"*/{SUMMARY}")),
        key=lambda folder: (folder / SUMMARY).stat().st_mtime,
    )
    if not found:
        raise HyfreeError(
            "run.not-found", f"{store}: no finished run; run 'hyfree-ray simulate' or see --store"
        )
    return found


def find_run(store: Path, run: str | None) -> Path:
    """Find the folder of a finished run; the newest where none is named.

    Raises:
        HyfreeError: no such run; the message lists those that are there.
    """
    finished = finished_folders(store)
    if run is None:
        return finished[-1]
    for folder in finished:
        if folder.name == run:
            return folder
    names = ", ".join(folder.name for folder in finished)
    raise HyfreeError("run.not-found", f"{store}: no finished run {run!r}; there are: {names}")


def find_runs(store: Path, runs: Sequence[str]) -> list[Path]:
    """Find the folders of finished runs; the newest alone where none is named.

    Raises:
        HyfreeError: no such run, or one that is named twice.
    """
    for position, run in enumerate(runs):
        if run in runs[:position]:
            raise HyfreeError("run.named-twice", f"{run}: named twice; name each run once")
    return [find_run(store, run) for run in runs or (None,)]


def read_curve(store: Path, study: str) -> dict[str, list[Point]]:
    """Read the curve that a study left.

    Raises:
        HyfreeError: no such study; the message lists those that are there.
    """
    path = store / "studies" / study / CURVE_FILE
    try:
        found = json.loads(path.read_text())
        return {
            str(name): [(int(size), float(value), low, high) for size, value, low, high in points]
            for name, points in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        names = sorted(file.parent.name for file in (store / "studies").glob(f"*/{CURVE_FILE}"))
        there = f"there are: {', '.join(names)}" if names else "run 'hyfree-ray scale'"
        raise HyfreeError(
            "run.no-curve", f"{store}: no study {study!r} has a curve; {there}"
        ) from error


def read_finished(folder: Path) -> Finished:
    """Read a run's folder.

    Raises:
        HyfreeError: a file that is missing or not ours.
    """
    return Finished(
        folder=folder,
        summary=read_summary(folder),
        rows=tuple(read_results(folder / "results.csv")),
    )
