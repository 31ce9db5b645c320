"""Trials: simulations as values, each run in a process of its own, remembered when it is done."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.failure import choose_format
from hyfree_ray.core.files import write_json
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.log import set_up_logging
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.results.finished import is_current, read_finished
from hyfree_ray.runners.child import ChildError, call_in_child
from hyfree_ray.runners.run import joined, run_simulation
from hyfree_ray.scheduling.resources import Execution


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One simulation of a study."""

    name: str
    """Unique in its study; a file's name."""
    simulation: Simulation
    execution: Execution = field(default_factory=Execution)
    draw: int
    values: Mapping[str, Any] = field(default_factory=dict)
    """What distinguishes it in its study."""

    @property
    def sites(self) -> int:
        """How many of them are in the pool."""
        return len(self.simulation.contributors or self.simulation.sites)


def run_trial(
    simulation: Simulation, runtime: Runtime, execution: Execution, log_format: str = "text"
) -> str:
    """Run a simulation to its end and return its run's name. In a process of its own."""
    set_up_logging(log_format)
    choose_format(["--log-format", log_format])
    with joined(runtime.ray):
        return run_simulation(simulation, runtime, execution).name


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Where the trials of a study run, are remembered and log."""

    folder: Path
    runtime: Runtime

    @property
    def logs(self) -> Path:
        """What each trial says while it runs, a file a trial."""
        return self.folder / "logs"

    def finished(self, trial: Trial) -> str | None:
        """Return the run that a trial ended in.

        None where it has yet to run, where it ran with other settings or on other data, where a
        site has withdrawn since, or where the run is of another version, damaged or not in MLflow:
        it costs little to run a trial again of which all is in the store, and so all are of one
        kind.
        """
        try:
            found = json.loads(self._note(trial).read_text())
            same = found["simulation"] == self._identity(trial)
            folder = self.runtime.store / "runs" / str(found["run"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not same or not is_current(folder):
            return None
        try:
            return read_finished(folder).name
        except HyfreeError:
            return None

    def run_of(self, trial: Trial) -> str:
        """Return the run that a trial ended in the last time, which has just been."""
        return str(json.loads(self._note(trial).read_text())["run"])

    def run(self, trial: Trial, ray: str) -> str:
        """Run a trial in a process of its own, and remember its run.

        Args:
            trial: it is handed to the process by value.
            ray: `off`, or the address of a cluster.

        Raises:
            ChildError: it failed; its log says more.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log_file, identity = self.logs / f"{trial.name}.log", self._identity(trial)
        runtime = self.runtime.model_copy(update={"ray": ray})
        work = functools.partial(run_trial, trial.simulation, runtime, trial.execution)
        title = f"{trial.name} in {self.folder}"
        try:
            run = call_in_child(work, title=title, log_file=log_file)
        except ChildError as error:
            message = f"{trial.name}: {error} (log: {log_file})"
            raise ChildError(error.exit_code, message) from error
        self._note(trial).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._note(trial), {"simulation": identity, "run": run})
        return run

    def _note(self, trial: Trial) -> Path:
        return self.folder / "trials" / f"{trial.name}.json"

    def _identity(self, trial: Trial) -> str:
        """Hash of all that a trial's result depends on in this store, but for the code."""
        withdrawn = sorted((self.runtime.store / "pool" / "withdrawn").glob("*.json"))
        weights = trial.simulation.experiment.embedder_weights
        known_by = None  # the file's content is hashed where it is used, in the stages' keys
        if weights is not None and Path(weights).is_file():
            stat = Path(weights).stat()
            known_by = [weights, stat.st_size, stat.st_mtime_ns]
        notes = [file.read_text() for file in withdrawn]
        return digest_of([trial.simulation.key, known_by, notes])
