"""Trials: simulations as commands, each in a process of its own, remembered when they are done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.errors import HyfreeError
from hyfree_ray.store import write_json

FOLDS = 5

PROGRAM = (sys.executable, "-m", "hyfree_ray.cli")
"""The command line, in the environment of this process."""


class TrialError(Exception):
    """A simulation ended with another code than 0.

    Args:
        code: the one that it ended with.
        message: its last words, one line.
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

    @property
    def logs(self) -> Path:
        """What each trial says while it runs, a file a trial."""
        return self.folder / "logs"

    def finished(self, trial: Trial) -> str | None:
        """The run that a trial ended in; None where it has yet to run with these options."""
        try:
            found = json.loads((self.folder / "trials" / f"{trial.name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        run: str = found["run"]
        whole = (self.store / "runs" / run / "summary.json").exists()
        return run if whole and found["options"] == list(trial.options) else None

    def command(self, trial: Trial, ray: str) -> list[str]:
        """What runs a trial."""
        return command_of(trial.options, self.store, ray)

    def run(self, trial: Trial, ray: str) -> str:
        """Run a trial in a process of its own, and remember its run.

        Raises:
            TrialError: it failed; its log says more.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        described = run_command(self.command(trial, ray), self.logs / f"{trial.name}.log")
        done = self.folder / "trials" / f"{trial.name}.json"
        done.parent.mkdir(parents=True, exist_ok=True)
        write_json(done, {"options": list(trial.options), "run": described["run"]})
        return str(described["run"])


def command_of(options: Sequence[str], store: Path, ray: str) -> list[str]:
    """The command of a simulation that prints its summary as JSON."""
    where = ["--store", str(store), "--ray", ray, "--format", "json"]
    return [*PROGRAM, "simulate", *options, *where]


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


def run_command(command: Sequence[str], log: Path | None = None) -> dict[str, Any]:
    """Run a command and read the JSON object in its last line.

    Args:
        command: program and arguments.
        log: file for its standard error; None: this process's own.

    Raises:
        TrialError: another exit code than 0.
    """
    if log is None:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        said = ""
    else:
        with log.open("w") as file:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=file, text=True, check=False
            )
        lines = log.read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else ""
    if done.returncode != 0:
        raise TrialError(done.returncode, said or f"a simulation ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def parse_numbers(text: str, option: str, *, least: int, most: int) -> tuple[int, ...]:
    """`0-4` or `0,2,3` as numbers, sorted.

    Raises:
        HyfreeError: something else, or a number out of bounds.
    """
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise HyfreeError(f"{option} {text}: write numbers as 0-4 or 0,2") from error
    if not found or min(found) < least or max(found) > most:
        raise HyfreeError(f"{option} {text}: numbers from {least} to {most} are possible")
    return tuple(sorted(found))
