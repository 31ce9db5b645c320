"""A run's folder is taken for what the store holds only while it is: cases of kills in between."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from hyfree_ray.observing.mlflow import database_uri
from hyfree_ray.runners import run
from tests import toys
from tests.toy_processes import Program, Start

RUN = ("simulate", "--budget", "smoke", "--device", "cpu", "--ray", "off", "--sites", "3")
GIVEN = (*RUN, "--min-sites", "2", "--settings", "personalised")


def with_a_late_failure(*arguments: str) -> None:
    """Site-2 breaks once the round has closed."""
    os.environ[toys.BREAK] = "prepare_for_general@site-2: cannot read"
    toys.program(*arguments)


def killed_before_its_summary(*arguments: str) -> None:
    """All stages run; then nothing more is written."""

    async def killed(*_: Any) -> None:
        os._exit(9)

    run.write_run = killed  # type: ignore[assignment]
    toys.program(*arguments)


def outcomes(folder: Path) -> dict[str, str]:
    described = json.loads((folder / "summary.json").read_text())
    return {site["outcome"]["site"]: site["outcome"]["outcome"] for site in described["sites"]}


def shown(store: Path, run: str) -> dict[str, Any]:
    """What MLflow shows as the run's summary."""
    client = MlflowClient(tracking_uri=database_uri(store))
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        ((run_id,),) = database.execute("select run_uuid from runs where name = ?", (run,))
    path = client.download_artifacts(run_id, "summary.json")
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def test_05_a_summary_of_before_a_kill_is_not_taken_for_that_of_what_ran_since(
    start: Start, program: Program, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    given = (*GIVEN, "--store", str(store))
    for name, what, code in (
        ("first", with_a_late_failure, 0),
        ("second", killed_before_its_summary, 9),
    ):
        process = start(tmp_path / name, *given, program=what)
        process.join()
        assert process.exitcode == code, (tmp_path / f"{name}.log").read_text()
    (folder,) = (store / "runs").iterdir()
    assert outcomes(folder)["site-2"] == "failed"
    assert "all stages are already done" in program(*given)
    assert set(outcomes(folder).values()) == {"released"}
    assert shown(store, folder.name) == json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_what_other_code_wrote_is_written_again_though_mlflow_shows_it(
    program: Program, tmp_path: Path
) -> None:
    given = (*RUN, "--store", str(tmp_path / "store"))
    program(*given)
    (folder,) = (tmp_path / "store" / "runs").iterdir()
    expected = (folder / "table.txt").read_text()
    (folder / "table.txt").write_text("in other words")
    (folder / "written").write_text("other code")
    assert "stages shown" in program("track", folder.name, "--store", tmp_path / "store")
    program(*given)
    assert (folder / "table.txt").read_text() == expected


@pytest.mark.slow
def test_a_summary_is_not_taken_for_whole_where_another_run_has_since_done_what_it_lacks(
    start: Start, program: Program, tmp_path: Path
) -> None:
    """Runs share stages: a site that broke in one has all that it lacked from the other."""
    given = (*GIVEN, "--store", str(tmp_path / "store"))
    process = start(tmp_path / "first", *given, program=with_a_late_failure)
    process.join()
    (folder,) = (tmp_path / "store" / "runs").iterdir()
    assert outcomes(folder)["site-2"] == "failed"
    program(*given, "--settings", "personalised,syn")
    assert "all stages are already done" in program(*given)
    assert set(outcomes(folder).values()) == {"released"}
    before = (folder / "summary.json").stat().st_mtime_ns
    program(*given)
    assert (folder / "summary.json").stat().st_mtime_ns == before, "it is whole now"
