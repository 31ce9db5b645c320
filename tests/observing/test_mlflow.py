from __future__ import annotations

import functools
import json
import logging
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from hyfree_ray.core.records import StageRecord
from hyfree_ray.observing import mlflow_database
from hyfree_ray.observing.mlflow import Tracker, database_uri
from hyfree_ray.observing.mlflow_values import FinalModel
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.summary import RunSummary, Summary, Transfer
from hyfree_ray.results.table import table_text
from tests.results.test_results import OUTCOMES, whole_run
from tests.stage_records import stage_record

START = 1_700_000_000.0


def record(owner: str, stage: str = "train_segmenter", **changes: Any) -> StageRecord:
    described: dict[str, Any] = {
        "key": f"{owner}-{stage}".encode().hex().ljust(64, "0")[:64],
        "owner": owner,
        "params": {"epochs": 4, "plan": {"patch": [24, 40]}, "device": None},
        "inputs": {"prepared": "a" * 64},
        "started": START,
        "ended": START + 60.5,
        "seconds": 60.5,
        "cpu_seconds": 58.2,
        "peak_memory_mib": 512.0,
        "versions": {"torch": "2"},
        "result": {"best": {"dice": 0.81}, "epoch": 3, "note": "text", "flag": True},
    }
    return stage_record(stage, **(described | changes))


def curve(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "total": count,
            "time": START + step,
            "loss": 1.0 / (step + 1),
            "dice/lesion (left)": step / count,
            "broken": float("nan"),
        }
        for step in range(count)
    ]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with MLflow's tables, which take seconds to make."""
    root = tmp_path_factory.mktemp("empty")
    MlflowClient(tracking_uri=database_uri(root)).search_experiments()
    return (root / "mlflow.db").read_bytes()


@pytest.fixture
def store(tmp_path: Path, empty: bytes) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    (root / "mlflow.db").write_bytes(empty)
    return root


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "samples.png"
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(path)
    return path


def tracker(root: Path, name: str = "phantom-0a1b2c3d") -> Tracker:
    return Tracker(root, name, "phantom", {"sites": 3, "budget": "smoke", "lr": 0.01, "data": None})


@functools.cache
def summary() -> Summary:
    return summarise("r", whole_run(2), counts={}, outcomes=OUTCOMES)


def show_all(root: Path, picture: Path) -> Tracker:
    """A whole simulation of three sites."""
    shown = tracker(root)
    for owner in ("a", "b", "c", "pool"):
        shown.stage_finished(record(owner, "prepare"), [], {})
        shown.stage_finished(record(owner), curve(), {"samples": picture})
    shown.finish(summary(), table_text(summary()), [picture])
    return shown


def runs(root: Path) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=database_uri(root))
    experiment = client.get_experiment_by_name("phantom")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return {run.data.tags["hyfree.key"]: run for run in found}


def contents(root: Path) -> dict[str, Any]:
    """All that MLflow would show, so that two stores can be compared."""
    client = MlflowClient(tracking_uri=database_uri(root))
    return {
        key: (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.params,
            {
                name: len(client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics
            },
            sorted(str(file.path) for file in client.list_artifacts(run.info.run_id)),
        )
        for key, run in runs(root).items()
    }


def test_a_simulation_is_a_tree_of_runs_with_all_that_belongs_to_them(
    store: Path, picture: Path
) -> None:
    assert show_all(store, picture).healthy
    found = runs(store)
    assert len(found) == 1 + 4 + 8
    parent, site = found["run"], found["site/a"]
    stage = found[f"stage/a/train_segmenter/{record('a').key}"]
    assert parent.info.run_name == "phantom-0a1b2c3d"
    assert site.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stage.data.tags["mlflow.parentRunId"] == site.info.run_id
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert parent.data.params == {"sites": "3", "budget": "smoke", "lr": "0.01", "data": "None"}
    assert stage.data.params == {"epochs": "4", "plan.patch": "[24, 40]", "device": "None"}
    assert stage.data.metrics["system/seconds"] == 60.5
    assert stage.data.metrics["result.best.dice"] == 0.81
    assert (stage.info.start_time, stage.info.end_time) == (START * 1000, START * 1000 + 60500)
    assert parent.data.metrics["dice.own.finetuned"] > parent.data.metrics["dice.own.local"]
    assert site.data.metrics["release.images"] == 400

    client = MlflowClient(tracking_uri=database_uri(store))
    losses = client.get_metric_history(stage.info.run_id, "loss")
    assert [(point.step, point.timestamp) for point in losses][:2] == [
        (0, START * 1000),
        (1, START * 1000 + 1000),
    ]
    assert "dice/lesion _left_" in stage.data.metrics
    assert "broken" not in stage.data.metrics
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"table.txt", "table.json", "summary.json", "samples.png"}
    assert (store / "mlartifacts").is_dir()


def test_only_what_mlflow_needs_is_tagged(store: Path, picture: Path) -> None:
    show_all(store, picture)
    for run in runs(store).values():
        assert set(run.data.tags) <= {
            "hyfree.key",
            "hyfree.run",
            "hyfree.summary",
            "hyfree.report",
            "mlflow.parentRunId",
            "mlflow.runName",
            "mlflow.loggedArtifacts",
            "mlflow.loggedImages",
            "mlflow.note.content",
            "verdict",
        }


def test_no_path_of_a_site_is_shown(store: Path) -> None:
    shown = tracker(store)
    shown.stage_finished(record("a", params={"weights": "/home/ward-7/vit.bin"}), [], {})
    (params,) = (run.data.params for key, run in runs(store).items() if key.startswith("stage/"))
    assert params == {"weights": "vit.bin"}


def test_handing_in_the_same_records_again_changes_nothing(store: Path, picture: Path) -> None:
    show_all(store, picture)
    before = contents(store)
    show_all(store, picture)
    assert contents(store) == before


def test_two_that_follow_one_simulation_make_each_run_once(store: Path) -> None:
    """Case 18: two commands on one store, of which neither knows what the other has made since."""
    both = [tracker(store), tracker(store)]
    for owner in ("a", "b"):
        for one in both:
            one.stage_finished(record(owner), curve(), {})
    client = MlflowClient(tracking_uri=database_uri(store))
    experiment = client.get_experiment_by_name("phantom")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in found) == sorted(
        ["phantom-0a1b2c3d", "a", "b", "a: train_segmenter", "b: train_segmenter"]
    )


def test_what_was_cut_off_is_caught_up(store: Path, picture: Path) -> None:
    shown = tracker(store)
    shown.stage_finished(record("a"), curve(), {"samples": picture})
    # Cut off within a stage: its run is there with some of its curve, and was not closed.
    client = MlflowClient(tracking_uri=database_uri(store))
    run = runs(store)[f"stage/a/train_segmenter/{record('a').key}"]
    client.update_run(run.info.run_id, status="RUNNING")
    show_all(store, picture)
    found = contents(store)
    assert len(found) == 13
    assert found[f"stage/a/train_segmenter/{record('a').key}"][4]["loss"] == 40
    assert {status for _, status, *_ in found.values()} == {"FINISHED"}


def test_another_summary_of_the_run_takes_the_place_of_the_one_that_was_shown(
    store: Path, picture: Path
) -> None:
    """As where a site that broke was tried again, or a table is written in other words."""
    show_all(store, picture)
    before = summary()
    worse = [
        replace(score, values={name: value and value - 0.1 for name, value in score.values.items()})
        for score in before.overall
    ]
    changed = replace(before, overall=tuple(worse), sites=before.sites[1:])
    for _ in range(2):  # shown again, it is the same
        again = tracker(store)
        again.stage_finished(record("a"), curve(), {})
        again.finish(changed, table_text(changed), [picture])
        assert again.healthy
    parent, client = runs(store)["run"], MlflowClient(tracking_uri=database_uri(store))
    (own,) = (
        score.primary
        for score in changed.overall
        if (score.regime, score.tested) == ("finetuned", "own")
    )
    assert parent.data.metrics["dice.own.finetuned"] == pytest.approx(own)
    assert len(client.get_metric_history(parent.info.run_id, "dice.own.finetuned")) == 2
    path = client.download_artifacts(parent.info.run_id, "summary.json")
    assert len(json.loads(Path(path).read_text())["sites"]) == len(changed.sites)
    table = pd.read_json(
        client.download_artifacts(parent.info.run_id, "table.json"), orient="split"
    )
    assert list(table["site"]) == [site.outcome.site for site in changed.sites]


_SLOWLY_FOUND = """\
import sys, time
from pathlib import Path
from mlflow import MlflowClient
found = MlflowClient.get_experiment_by_name
def slowly(*arguments):
    result = found(*arguments)
    time.sleep(1)
    return result
MlflowClient.get_experiment_by_name = slowly
from hyfree_ray.observing.mlflow import Tracker
sys.exit(not Tracker(Path(sys.argv[1]), sys.argv[2], "phantom", {}).healthy)
"""


def test_two_that_begin_on_a_new_store_are_both_shown(tmp_path: Path, empty: bytes) -> None:
    """As the first simulations of a study do: neither finds an experiment."""
    (tmp_path / "mlflow.db").write_bytes(empty)
    both = [
        subprocess.Popen([sys.executable, "-c", _SLOWLY_FOUND, str(tmp_path), name])
        for name in ("phantom-1", "phantom-2")
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    assert set(runs(tmp_path)) == {"run"}


def test_long_curves_and_many_parameters_are_shown_in_full(store: Path) -> None:
    shown = tracker(store)
    params = {f"p{k}": k for k in range(250)}
    shown.stage_finished(record("a", params=params), curve(1300), {})
    assert shown.healthy
    (key,) = (key for key in runs(store) if key.startswith("stage/"))
    assert contents(store)[key][4]["loss"] == 1300
    assert len(contents(store)[key][3]) == 250


def test_two_simulations_share_a_database_and_no_run(store: Path) -> None:
    for name in ("phantom-00000000", "phantom-it's-11111111"):
        shown = tracker(store, name)
        shown.stage_finished(record("a"), curve(), {})
        assert shown.healthy
    client = MlflowClient(tracking_uri=database_uri(store))
    experiment = client.get_experiment_by_name("phantom")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 6


def test_a_failure_is_said_once_and_never_stops_the_run(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cases 76 and 77: the database is damaged."""
    shown = tracker(store)
    (store / "mlflow.db").write_bytes(b"not a database" * 100)
    with caplog.at_level(logging.WARNING, logger="hyfree_ray.observing.mlflow"):
        for owner in ("a", "b", "c"):
            shown.stage_finished(record(owner), curve(), {})
        shown.finish(summary(), "table", [])
    assert not shown.healthy
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def test_a_database_that_cannot_be_opened_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 76: there is none."""
    (tmp_path / "mlflow.db").mkdir()
    with caplog.at_level(logging.WARNING, logger="hyfree_ray.observing.mlflow"):
        shown = tracker(tmp_path)
        shown.stage_finished(record("a"), curve(), {})
    assert not shown.healthy
    assert len(caplog.records) == 1


def test_a_database_that_somebody_holds_is_not_waited_for_long(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 78: it is locked."""
    monkeypatch.setattr(mlflow_database, "_PATIENCE_S", 0.1)
    with closing(sqlite3.connect(store / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with caplog.at_level(logging.WARNING, logger="hyfree_ray.observing.mlflow"):
            shown = tracker(store)
    assert not shown.healthy
    assert "locked" in caplog.text
    assert tracker(store).healthy


def test_a_stage_costs_little(store: Path, picture: Path) -> None:
    shown = tracker(store)
    shown.stage_finished(record("a"), curve(), {})
    started = time.process_time()
    for k in range(5):
        shown.stage_finished(record("b", f"stage-{k}"), curve(200), {"samples": picture})
    assert (time.process_time() - started) / 5 < 0.5  # s of a core; about 0.05
    assert shown.healthy


def test_a_study_is_the_parent_of_its_simulations(store: Path) -> None:
    file = store / "scaling.csv"
    file.write_text("sites\n")
    trials = [tracker(store, f"phantom-{k}") for k in (1, 2, 3)]
    assert all(trial.healthy for trial in trials)
    named = ["phantom-1", "phantom-3", "phantom-9"]
    for runs in (["phantom-2"], named, named):  # changed, and told again
        study = tracker(store, "scale-0a1b2c3d")
        study.adopt(runs, {"4 sites/finetuned/own": 0.02}, "what it found", [file])
        assert study.healthy
    client = MlflowClient(tracking_uri=database_uri(store))
    experiment = client.get_experiment_by_name("phantom")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(found) == 4
    parent = found["scale-0a1b2c3d"]
    assert parent.data.metrics == {"4 sites/finetuned/own": 0.02}
    assert parent.data.tags["mlflow.note.content"] == "what it found"
    assert [one.path for one in client.list_artifacts(parent.info.run_id)] == ["scaling.csv"]
    adopted = {
        name
        for name, run in found.items()
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert adopted == {"phantom-1", "phantom-3"}


def test_each_site_shows_its_verdict_and_its_differences_with_intervals(
    store: Path, picture: Path
) -> None:
    show_all(store, picture)
    told = {one.site: one for one in summary().verdicts}
    assert told
    for site, one in told.items():
        shown = runs(store)[f"site/{site}"].data
        assert shown.tags["verdict"] == one.advice
        assert shown.tags["mlflow.note.content"] == one.sentence
        of_site = [c for c in summary().contrasts if c.site == site and c.low is not None]
        for contrast in of_site:
            name = f"{contrast.tested}.{contrast.first}-{contrast.second}"
            assert shown.metrics[f"low.{name}"] == contrast.low
            assert shown.metrics[f"high.{name}"] == contrast.high
    assert any(c.low is not None and c.site is not None for c in summary().contrasts)


def test_artifacts_of_a_store_that_was_moved_lie_inside_it(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"x")

    def show(store: Path, run: str) -> None:
        tracker = Tracker(store, run, "cohort", {"a": 1})
        tracker.stage_finished(record("site-1", key=run.ljust(64, "0")), [], {"samples": picture})
        assert tracker.healthy

    (tmp_path / "old").mkdir()
    show(tmp_path / "old", "a")
    (tmp_path / "old").rename(tmp_path / "new")
    show(tmp_path / "new", "b")
    assert not (tmp_path / "old").exists()
    client = MlflowClient(tracking_uri=database_uri(tmp_path / "new"))
    (experiment,) = [one for one in client.search_experiments() if one.name == "cohort"]
    artifacts = str(tmp_path / "new" / "mlartifacts")
    for run in client.search_runs([experiment.experiment_id]):
        assert artifacts in run.info.artifact_uri


def test_a_report_with_its_figures_is_added_once(store: Path, picture: Path) -> None:
    shown = show_all(store, picture)
    page = store / "reports" / "report.html"
    (page.parent / "figures").mkdir(parents=True)
    page.write_text("<html></html>")
    (page.parent / "figures" / "matrix.png").write_bytes(picture.read_bytes())
    for _ in range(2):
        shown.attach_report(page)
    assert shown.healthy
    client, run_id = MlflowClient(tracking_uri=database_uri(store)), runs(store)["run"].info.run_id
    assert {file.path for file in client.list_artifacts(run_id, "report")} == {
        "report/report.html",
        "report/figures",
    }


def test_what_a_run_was_made_of_is_told_by_hashes_alone(store: Path) -> None:
    shown = tracker(store)
    shown.stage_finished(record("a"), [], {})
    shown.stage_finished(record("pool"), [], {})
    made = RunSummary(
        **vars(summary()),
        cohort="phantom",
        experiment={},
        data={"a": "d" * 64},
        ledger=(Transfer(sender="a", receiver="pool", stage="release", bytes=1, sha256="e" * 64),),
    )
    shown.finish(made, "", [])
    assert shown.healthy
    found = runs(store)
    inputs = {
        key: [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
        for key, run in found.items()
    }
    assert inputs["run"] == inputs["site/a"] == [("a: images", "d" * 36)]
    assert inputs["site/pool"] == [("a: release", "e" * 36)]


def test_final_models_are_registered_once_with_a_card_and_an_alias(
    store: Path, tmp_path: Path, picture: Path
) -> None:
    shown = show_all(store, picture)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plans.json").write_text("{}")
    for _ in range(2):
        shown.register([FinalModel(name="general", folder=tmp_path / "model", card="**general**")])
    assert shown.healthy
    client = MlflowClient(tracking_uri=database_uri(store))
    version = client.get_model_version_by_alias("phantom general", "final")
    assert (str(version.version), version.description) == ("1", "**general**")
    place = Path(str(version.source).removeprefix("file://"))
    assert (place / "plans.json").is_file()
