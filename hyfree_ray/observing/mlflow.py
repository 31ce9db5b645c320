"""The records of a run, shown in MLflow. The only file that imports it.

MLflow is a view: all that it shows is in the store, nothing is ever read back from it, and it can
be thrown away and filled again. So nothing that goes wrong here stops a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

# Read when MLflow is imported. Hospitals' machines report to nobody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from PIL import Image, UnidentifiedImageError

from hyfree_ray.core.files import locked
from hyfree_ray.core.records import StageRecord
from hyfree_ray.observing.mlflow_database import check_database, follow_store
from hyfree_ray.observing.mlflow_values import (
    NOTE,
    FinalModel,
    Point,
    Scalar,
    columns,
    contrasts,
    description,
    flat,
    lineage,
    milliseconds,
    numbers_at,
    parameter_text,
    points_of,
    scores,
    valid_name,
    verdict,
)
from hyfree_ray.results.summary import Summary

_LOG = logging.getLogger(__name__)
_METRICS_A_BATCH = 1000  # MLflow's limits on one call
_PARAMS_A_BATCH = 100
_LONGEST_TAG = 5000  # characters, another limit
_LOCK_POLL_S = 0.02
_KEY, _OF, _PARENT = "hyfree.key", "hyfree.run", "mlflow.parentRunId"
_REPORT = "hyfree.report"
"""Tag of a simulation's run: hash of the report that it shows."""
_SUMMARY = "hyfree.summary"
"""Tag of a simulation's run: hash of the summary that it shows in full."""
_P = ParamSpec("_P")


def database_uri(store_root: Path) -> str:
    """Return what `mlflow ui --backend-store-uri` takes to show this store."""
    return f"sqlite:///{store_root.resolve() / 'mlflow.db'}"


def _shown(
    act: Callable[Concatenate[Tracker, _P], None],
) -> Callable[Concatenate[Tracker, _P], None]:
    """Do it, or say once that MLflow is behind; never raise into the run."""

    @wraps(act)
    def guarded(self: Tracker, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if not self.healthy:
            return
        try:
            act(self, *args, **kwargs)
        except Exception as error:
            # Whatever it is: database locked, disk full, a version that cannot read the database.
            self.healthy = False
            _LOG.warning(
                "MLflow is not recording this run (%s); nothing is lost; run the same command "
                "again to bring it up to date from the store",
                f"{type(error).__name__}: {error}".splitlines()[0][:200],
            )

    return guarded


class Tracker:
    """Shows one simulation: a parent run, a child run a site, and under it one a stage.

    Only the driver has one, and makes it before anything else may open the database. Handing in
    the same records again changes nothing, so a run that was interrupted is brought up to date
    by handing in all of them.

    Args:
        store_root: holds `mlflow.db` and `mlartifacts/`.
        run_name: of the simulation, and what makes it the same one when it is seen again.
        experiment_name: groups the simulations of one cohort.
        parameters: every resolved number of the experiment.
    """

    def __init__(
        self,
        store_root: Path,
        run_name: str,
        experiment_name: str,
        parameters: Mapping[str, Scalar],
    ) -> None:
        self.healthy = True
        """False from the first thing that MLflow could not take."""
        self._name = run_name
        self._cohort = experiment_name
        self._of = _tag_of(run_name)
        self._artifacts = store_root.resolve() / "mlartifacts"
        self._runs: dict[str, Run] = {}
        self._ended = 0.0
        self._open(store_root, experiment_name, parameters)

    @_shown
    def _open(
        self, store_root: Path, experiment_name: str, parameters: Mapping[str, Scalar]
    ) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # else every table is announced
        # Another process that finds no tables or no experiment would make them meanwhile.
        with locked(self._artifacts, patience_s=_LOCK_POLL_S):
            check_database(store_root / "mlflow.db")
            follow_store(store_root / "mlflow.db", self._artifacts.as_uri())
            self._client = MlflowClient(tracking_uri=database_uri(store_root))
            found = self._client.get_experiment_by_name(experiment_name)
            self._experiment = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(experiment_name, self._artifacts.as_uri())
            )
        self._runs = {run.data.tags[_KEY]: run for run in self._find_runs()}
        parent = self._run("run", self._name, parent=None, started=time.time())
        self._log_parameters(parent, parameters)

    @_shown
    def stage_finished(
        self,
        record: StageRecord,
        curve: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, Path],
    ) -> None:
        """Show one finished stage.

        Args:
            record: the stage's `record.json`.
            curve: the lines of its `metrics.jsonl`: `step`, `time` (s since 1970), and numbers.
            pictures: names to PNG files without any real image in them; the names are shown.
        """
        owner, stage = record.owner, record.stage
        self._ended = max(self._ended, record.ended)
        site = self._run(f"site/{owner}", owner, parent="run", started=record.started)
        run = self._run(
            f"stage/{owner}/{stage}/{record.key}",
            f"{owner}: {stage}",
            parent=site.data.tags[_KEY],
            started=record.started,
        )
        if run.info.status == "FINISHED":
            return
        self._log_parameters(run, dict(flat(record.params)))
        measured = {"seconds", "device_seconds", "cpu_seconds", "peak_memory_mib"}
        spent = {
            f"system/{name}": value for name, value in record.model_dump(include=measured).items()
        }
        numbers = spent | dict(flat({"result": record.result}))
        self._log_metrics(run, [*points_of(curve), *numbers_at(numbers, record.ended)])
        step = max((int(point["step"]) for point in curve), default=0)
        for name, path in pictures.items():
            self._client.log_artifact(run.info.run_id, str(path), valid_name(name))
            with suppress(UnidentifiedImageError), Image.open(path) as picture:
                self._client.log_image(run.info.run_id, picture, key=valid_name(name), step=step)
        self._close(run, record.ended)

    @_shown
    def show_samples(self, site: str, pictures: Mapping[int, Path]) -> None:
        """Show a phantom's samples by how many images its generator had been shown, once."""
        key = next(k for k in self._runs if k.startswith(f"stage/{site}/train_generator/"))
        run_id = self._runs[key].info.run_id
        if not self._client.list_artifacts(run_id, "images"):
            for shown, path in pictures.items():
                with Image.open(path) as picture:
                    self._client.log_image(run_id, picture, key="samples", step=shown)

    @_shown
    def finish(self, summary: Summary, printed: str, artifacts: Sequence[Path]) -> None:
        """Show the final table and close the run and its sites; of another summary, it takes over.

        Args:
            summary: of the run, as in its `summary.json`.
            printed: the same as a table for people.
            artifacts: files of the run's own folder.
        """
        written = json.dumps([summary.to_json(), printed], sort_keys=True)
        digest = hashlib.sha256(written.encode())
        # Another process may show the same meanwhile.
        with locked(self._artifacts, patience_s=_LOCK_POLL_S):
            parent = self._client.get_run(self._runs["run"].info.run_id)
            if parent.data.tags.get(_SUMMARY) != digest.hexdigest():
                self._show_summary(parent, summary, printed, artifacts)
                self._client.set_tag(parent.info.run_id, _SUMMARY, digest.hexdigest())

    def _show_summary(
        self, parent: Run, summary: Summary, printed: str, artifacts: Sequence[Path]
    ) -> None:
        now = self.__time_of_numbers(parent)
        for site in summary.sites:
            key = f"site/{site.outcome.site}"
            if key in self._runs:
                tags, likely = verdict(summary, site.outcome.site)
                numbers = dict(flat({"release": vars(site.outcome)})) | scores(site.scores) | likely
                numbers |= contrasts(summary.contrasts, site.outcome.site)
                self._log_metrics(self._runs[key], numbers_at(numbers, now))
                self._set_tags(self._runs[key], tags)
        overall = scores(summary.overall) | contrasts(summary.contrasts)
        self._log_metrics(parent, numbers_at(overall, now))
        run_id = parent.info.run_id
        self._set_tags(parent, {NOTE: description(summary)})
        self._client.log_text(run_id, printed, "table.txt")
        self._client.log_dict(run_id, summary.to_json(), "summary.json")
        self._log_table(run_id, columns(summary))
        for path in artifacts:
            self._client.log_artifact(run_id, str(path))
        for key, datasets in lineage(summary).items():
            if key in self._runs:
                self._log_inputs(self._runs[key], datasets)
        for key, run in self._runs.items():
            if key == "run" or key.startswith("site/"):
                self._close(run, now)

    def _log_inputs(self, run: Run, datasets: Mapping[str, str]) -> None:
        """Log what a run was made of: names and hashes, of which the data cannot be told."""
        made_of = run.inputs.dataset_inputs if run.inputs is not None else []
        known = {(one.dataset.name, one.dataset.digest) for one in made_of}
        new = [
            DatasetInput(
                Dataset(
                    name=valid_name(name), digest=digest[:36], source_type="hyfree-ray", source="{}"
                ),
                [InputTag("mlflow.data.context", "training")],
            )
            for name, digest in datasets.items()
            if (valid_name(name), digest[:36]) not in known
        ]
        if new:
            self._client.log_inputs(run.info.run_id, new)

    @_shown
    def attach_report(self, page: Path) -> None:
        """Add the run's report and its figures, unless these are there already."""
        run_id = self._runs["run"].info.run_id
        digest = hashlib.sha256(page.read_bytes()).hexdigest()
        if self._client.get_run(run_id).data.tags.get(_REPORT) == digest:
            return
        self._client.log_artifact(run_id, str(page), "report")
        for figure in sorted((page.parent / "figures").glob("*.png")):
            self._client.log_artifact(run_id, str(figure), "report/figures")
        self._client.set_tag(run_id, _REPORT, digest)

    @_shown
    def register(self, models: Sequence[FinalModel]) -> None:
        """Register final models, each with a card; the alias `final` is that of the newest.

        A model that is registered as a version of this run already is left as it is.
        """
        parent = self._runs["run"]
        for model in models:
            name = valid_name(f"{self._cohort} {model.name}").replace("/", "-").replace(":", "-")
            with suppress(MlflowException):  # it is there
                self._client.create_registered_model(name)
            of_this = f"name = '{name}' and run_id = '{parent.info.run_id}'"
            if self._client.search_model_versions(of_this):
                continue
            place = f"models/{model.name}"
            self._client.log_artifacts(parent.info.run_id, str(model.folder), place)
            version = self._client.create_model_version(
                name,
                f"{parent.info.artifact_uri}/{place}",
                parent.info.run_id,
                description=model.card,
            )
            self._client.set_registered_model_alias(name, "final", version.version)

    def __time_of_numbers(self, parent: Run) -> float:
        """Return the records' time, not the clock's: what is logged again is the same point.

        Where the run was closed already it is after that of what the run shows: of two points of
        one time MLflow would take the larger number for the newer.
        """
        before = (parent.info.end_time or 0) / 1000
        return max(self._ended or time.time(), before + 0.001 if before else 0.0)

    def _log_table(self, run_id: str, columns: Mapping[str, list[Any]]) -> None:
        name = "table.json"
        if not any(file.path == name for file in self._client.list_artifacts(run_id)):
            self._client.log_table(run_id, dict(columns), name)
            return
        # MLflow would append to the table that is there.
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._client.log_dict(run_id, {"columns": list(columns), "data": rows}, name)

    @_shown
    def adopt(
        self, runs: Iterable[str], numbers: Mapping[str, object], note: str, files: Sequence[Path]
    ) -> None:
        """Show this run as a study: the parent of the simulations that are its trials alone.

        Args:
            runs: names of simulations of the same cohort; those that MLflow lacks are left out.
            numbers: what they gave together.
            note: the same for people, in Markdown.
            files: that the study has left.
        """
        parent = self._runs["run"]
        adopted = set()
        for name in runs:
            wanted = f"tags.`{_OF}` = '{_tag_of(name)}' AND tags.`{_KEY}` = 'run'"
            for trial in self._client.search_runs([self._experiment], filter_string=wanted):
                self._client.set_tag(trial.info.run_id, _PARENT, parent.info.run_id)
                adopted.add(trial.info.run_id)
        # A study's file may have been changed since it was shown.
        children = f"tags.`{_PARENT}` = '{parent.info.run_id}'"
        for trial in self._client.search_runs([self._experiment], filter_string=children):
            if trial.info.run_id not in adopted:
                self._client.delete_tag(trial.info.run_id, _PARENT)
        now = time.time()
        self._log_metrics(parent, numbers_at(numbers, now))
        self._set_tags(parent, {NOTE: note})
        for path in files:
            self._client.log_artifact(parent.info.run_id, str(path))
        self._close(parent, now)

    def _find_runs(self, key: str | None = None) -> Iterable[Run]:
        """Yield what MLflow has of this simulation, or of it the run of one key."""
        wanted = f"tags.`{_OF}` = '{self._of}'"
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=wanted if key is None else f"{wanted} AND tags.`{_KEY}` = '{key}'",
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, key: str, name: str, *, parent: str | None, started: float) -> Run:
        """Return the run of this key: the one that is there, or a new one."""
        if key not in self._runs:
            tags = {_KEY: key, _OF: self._of}
            if parent is not None:
                tags[_PARENT] = self._runs[parent].info.run_id
            # Another process that follows the same simulation would make the same run meanwhile.
            with locked(self._artifacts, patience_s=_LOCK_POLL_S):
                self._runs[key] = next(iter(self._find_runs(key)), None) or self._client.create_run(
                    self._experiment, start_time=milliseconds(started), tags=tags, run_name=name
                )
        return self._runs[key]

    def _close(self, run: Run, ended: float) -> None:
        run_id = run.info.run_id
        self._client.set_terminated(run_id, "FINISHED", milliseconds(ended))
        self._runs[run.data.tags[_KEY]] = self._client.get_run(run_id)

    def _log_parameters(self, run: Run, parameters: Mapping[str, Scalar]) -> None:
        known = run.data.params
        new = [
            Param(valid_name(name), parameter_text(value))
            for name, value in parameters.items()
            if valid_name(name) not in known
        ]
        for start in range(0, len(new), _PARAMS_A_BATCH):
            self._client.log_batch(run.info.run_id, params=new[start : start + _PARAMS_A_BATCH])

    def _set_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_tag(run.info.run_id, name, value[:_LONGEST_TAG])

    def _log_metrics(self, run: Run, points: Sequence[Point]) -> None:
        for start in range(0, len(points), _METRICS_A_BATCH):
            batch = [Metric(*point) for point in points[start : start + _METRICS_A_BATCH]]
            self._client.log_batch(run.info.run_id, metrics=batch)


def _tag_of(run_name: str) -> str:
    return hashlib.sha256(run_name.encode()).hexdigest()[:16]
