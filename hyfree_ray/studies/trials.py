"""Trials: simulations as commands, each in a process of its own, remembered when they are done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hyfree_ray
from hyfree_ray.config.experiment import Experiment, resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.store import digest_of, write_json
from hyfree_ray.results.finished import is_current, read_finished

_PACKAGES = str(Path(hyfree_ray.__file__).parents[1])
PROGRAM = (
    sys.executable,
    "-c",
    f"import sys; sys.path[0] = {_PACKAGES!r}; "
    "from hyfree_ray.cli import main; main(prog_name='hyfree-ray')",
)
"""The command line, in the environment of this process. Not by `-m`, by which a `yaml.py` in the
user's folder would be taken for the library."""


class TrialError(Exception):
    """A simulation ended with another code than 0.

    Args:
        code: the one that it ended with.
        message: its last words, one line; empty where it has said them itself.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One simulation of a study."""

    name: str
    """Unique in its study; a file's name."""
    options: tuple[str, ...]
    """Of `simulate`, without the store and Ray."""
    sites: int
    """How many of them are in the pool."""
    draw: int
    values: Mapping[str, Any] = field(default_factory=dict)
    """What distinguishes it in its study."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the trials of a study are remembered and log."""

    folder: Path
    store: Path
    cwd: Path = field(default_factory=Path.cwd)
    """Where the study was asked for: a trial's options may hold paths from there."""

    @property
    def logs(self) -> Path:
        """What each trial says while it runs, a file a trial."""
        return self.folder / "logs"

    def finished(self, trial: Trial) -> str | None:
        """The run that a trial ended in.

        None where it has yet to run with these options, where these options now mean another
        experiment, where a site has withdrawn since, or where the run is of another version,
        damaged or not in MLflow: it costs little to run a trial again of which all is in the store,
        and so all are of one kind.

        Raises:
            HyfreeError: its options are no experiment.
        """
        means = self._means(trial)
        try:
            found = json.loads(self._done(trial).read_text())
            folder = self.store / "runs" / str(found["run"])
            same = (found["options"], found["experiment"]) == (list(trial.options), means)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not same or not is_current(folder):
            return None
        try:
            return read_finished(folder).name
        except HyfreeError:
            return None

    def _means(self, trial: Trial) -> str:
        """Hash of what a trial's options mean in this store."""
        withdrawn = sorted((self.store / "pool" / "withdrawn").glob("*.json"))
        return digest_of([resolved(trial.options, self.cwd), *(f.read_text() for f in withdrawn)])

    def run_of(self, trial: Trial) -> str:
        """The run that a trial ended in the last time, which has just been."""
        return str(json.loads(self._done(trial).read_text())["run"])

    def _done(self, trial: Trial) -> Path:
        return self.folder / "trials" / f"{trial.name}.json"

    def command(self, trial: Trial, ray: str) -> list[str]:
        """What runs a trial."""
        return command_of(trial.options, self.store, ray)

    def run(self, trial: Trial, ray: str) -> str:
        """Run a trial in a process of its own, and remember its run.

        Raises:
            TrialError: it failed; its log says more.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log, experiment = self.logs / f"{trial.name}.log", self._means(trial)
        try:
            run = str(run_command(self.command(trial, ray), log, self.cwd)["run"])
        except TrialError as error:
            said = f"{trial.name}: {error.message} (log: {log})"
            raise TrialError(error.code, said) from error
        self._done(trial).parent.mkdir(parents=True, exist_ok=True)
        told = {"options": list(trial.options), "experiment": experiment, "run": run}
        write_json(self._done(trial), told)
        return run


def resolved(options: Sequence[str], cwd: Path) -> str:
    """Hash of the experiment that options of `simulate` mean, by today's defaults and files, those
    of the data set and an embedder's weights too.

    Args:
        options: each a name and a value, as they are typed.
        cwd: where they were typed.

    Raises:
        HyfreeError: they are no experiment.
    """
    named = by_name(options)
    # Which device it is, the machine that it runs on will tell.
    means = [experiment_of(options, device) for device in ("cpu", "cuda")]
    data = _files_of(Path(named["--data"])) if "--data" in named else []
    weights = {one.embedder_weights for one in means if one.embedder_weights is not None}
    data += [_looked_at(cwd / path, path) for path in sorted(weights) if (cwd / path).is_file()]
    return digest_of([[one.model_dump(mode="json") for one in means], data])


def experiment_of(options: Sequence[str], device: str) -> Experiment:
    """The experiment that options of `simulate` mean on a device.

    Args:
        options: each a name and a value, as they are typed.
        device: "cpu" or "cuda".

    Raises:
        HyfreeError: they are no experiment.
    """
    named = by_name(options)
    fields: dict[str, Any] = {
        name: int(named[f"--{name}"]) for name in ("fold", "seed") if f"--{name}" in named
    }
    if "--settings" in named:
        names = (name.strip() for name in named["--settings"].split(","))
        fields["settings"] = tuple(filter(None, names))
    found, _ = resolve_experiment(
        budget=named.get("--budget"),
        generator=named.get("--generator"),
        device=device,
        file=Path(named["--config"]) if "--config" in named else None,
        overrides=[value for name, value in pairs(options) if name == "--set"],
        **fields,
    )
    return found


def pairs(options: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of options, in their order."""
    return list(zip(options[::2], options[1::2], strict=True))


def by_name(options: Sequence[str]) -> dict[str, str]:
    """Values of options by their names; of one that is given several times, the last."""
    return dict(pairs(options))


def _files_of(folder: Path) -> list[list[Any]]:
    """By what a changed data set is noticed, without reading it; `simulate` reads it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [_looked_at(path, path.relative_to(folder).as_posix()) for path in files]


def _looked_at(path: Path, name: str) -> list[Any]:
    stat = path.stat()
    return [name, stat.st_size, stat.st_mtime_ns]


def command_of(
    options: Sequence[str], store: Path, ray: str, *, log_format: str = "text"
) -> list[str]:
    """The command of a simulation that prints its summary as JSON.

    Args:
        options: of `simulate`.
        store: where it keeps everything.
        ray: `local`, `off` or a cluster's address.
        log_format: of what it says meanwhile, `text` or `json`.
    """
    where = ["--store", str(store), "--ray", ray]
    return [*PROGRAM, "simulate", *options, *where, "--format", "json", "--log-format", log_format]


_OPTIONS = {"how": "partition", "min_sites": "min-sites", "overrides": "set"}
"""Names of options where they differ from the arguments'."""


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options of `simulate` as they are typed, without what differs between simulations."""
    named = (
        *("sites", "data", "how", "config", "budget", "generator", "seed", "device"),
        *("min_sites", "deadline"),
    )
    passed = [
        part
        for name in named
        if options.get(name) is not None
        for part in (f"--{_OPTIONS.get(name, name)}", str(options[name]))
    ]
    if options.get("settings") is not None:  # none at all are not the default ones
        passed += ["--settings", ",".join(options["settings"])]
    if options.get("contributors"):
        passed += ["--contributors", ",".join(options["contributors"])]
    for name in ("overrides", "withdraw", "drop", "slow"):
        for value in options.get(name, ()):
            passed += [f"--{_OPTIONS.get(name, name)}", value]
    return [*passed, "--next-round"] if options.get("next_round") else passed


def refuse_overrides(overrides: Sequence[str], names: Sequence[str], by: str) -> None:
    """Refuse `--set` of what other options give each simulation its own value of.

    Args:
        overrides: each `KEY=VALUE`.
        names: the keys that are refused.
        by: the options that say them.

    Raises:
        HyfreeError: it names the override.
    """
    for override in overrides:
        if override.partition("=")[0].strip() in names:
            raise HyfreeError(
                "option.conflict", f"--set {override}: {by} would say otherwise; leave it out"
            )


def run_command(
    command: Sequence[str], log: Path | None = None, cwd: Path | None = None
) -> dict[str, Any]:
    """Run a command and read the JSON object in its last line.

    Args:
        command: program and arguments.
        log: file for its standard error; None: this process's own.
        cwd: folder that it runs in, where this machine has it; else, this process's.

    Raises:
        TrialError: another exit code than 0; of one that a signal ended, 1.
    """
    here = cwd if cwd is not None and cwd.is_dir() else None
    if log is None:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=here)
        said = ""
    else:
        with log.open("w") as file:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=file, text=True, check=False, cwd=here
            )
        lines = log.read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it ended without a word"
    if done.returncode < 0:  # its last words are of what it was at
        raise TrialError(1, f"killed by signal {-done.returncode}")
    if done.returncode > 0:
        raise TrialError(done.returncode, said)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def parse_numbers(text: str, option: str, *, least: int, most: int) -> tuple[int, ...]:
    """`0-4` or `0,2,3` as numbers, sorted.

    Raises:
        HyfreeError: something else, or a number out of bounds.
    """
    ends = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            ends.append((int(first), int(last if dash else first)))
    except ValueError as error:
        raise HyfreeError(
            "option.malformed", f"{option} {text}: write numbers as 0-4 or 0,2"
        ) from error
    if any(first > last or first < least or last > most for first, last in ends):
        raise HyfreeError(
            "option.out-of-range", f"{option} {text}: numbers from {least} to {most} are possible"
        )
    return tuple(sorted({number for first, last in ends for number in range(first, last + 1)}))
