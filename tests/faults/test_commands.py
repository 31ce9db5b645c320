"""Commands under faults, with toy stages; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests import toys
from tests.toy_processes import Program, Start

RUN = ("simulate", "--budget", "smoke", "--device", "cpu", "--ray", "off")


@pytest.mark.slow
def test_76_78_a_run_does_not_wait_for_mlflow_and_track_shows_it_from_nothing(
    program: Program, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    given = (*RUN, "--store", store)
    store.mkdir()
    (store / "store.json").write_text('{"store_version": 1}')
    with closing(sqlite3.connect(store / "mlflow.db")) as held:
        held.execute("BEGIN EXCLUSIVE")
        said = program(*given)
    assert "MLflow is not recording this run" in said
    (folder,) = (store / "runs").iterdir()
    assert not (folder / "tracked").exists()
    before = (folder / "results.csv").read_bytes()
    (store / "mlflow.db").unlink()
    shown = program("track", folder.name, "--store", store)
    found = re.search(r"(\d+) stages shown in sqlite", shown)
    assert found is not None, shown
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        (runs,) = database.execute("select count(*) from runs").fetchone()
    assert runs >= int(found[1]) > 20  # and the run itself and its sites
    listed = program("store", "ls", "--store", store)
    assert re.search(r"site-1 +train_generator +1 +0 ", listed)
    assert "gc can free 0.0" not in listed
    assert "would free" in program("store", "gc", "--store", store, "--dry-run")
    assert list(store.glob("**/checkpoints/*.pt"))
    program("store", "gc", "--store", store)
    assert not list(store.glob("**/checkpoints/*.pt"))
    assert "all stages are already done" in program(*given)
    assert (folder / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_18_two_commands_at_once_share_the_work_the_runs_folder_and_mlflow(
    start: Start, program: Program, tmp_path: Path
) -> None:
    store, apart = tmp_path / "store", tmp_path / "apart"
    both = [
        start(tmp_path / name, *RUN, "--store", str(store), program=toys.program)
        for name in ("one", "other")
    ]
    for process in both:
        process.join()
    for name, process in zip(("one", "other"), both, strict=True):
        said = (tmp_path / f"{name}.log").read_text()
        assert process.exitcode == 0, said
        assert "Traceback" not in said
    tried = [len(file.read_text().splitlines()) for file in store.glob("**/attempts.jsonl")]
    assert set(tried) == {1}
    program(*RUN, "--store", apart)
    for root in (store, apart):
        (folder,) = (root / "runs").iterdir()
        assert {"written", "tracked"} <= {file.name for file in folder.iterdir()}
    (shared,), (alone,) = (root.glob("runs/*/results.csv") for root in (store, apart))
    assert shared.read_bytes() == alone.read_bytes()
    shown = []
    for root in (store, apart):
        with closing(sqlite3.connect(root / "mlflow.db")) as database:
            shown.append(sorted(name for (name,) in database.execute("select name from runs")))
    assert shown[0] == shown[1], "in MLflow too, nothing is there twice or missing"


@pytest.mark.slow
def test_a_run_says_what_a_dropout_and_a_straggler_cost(program: Program, tmp_path: Path) -> None:
    store = tmp_path / "store"
    suffering = ("--min-sites", "2", "--drop", "site-2@release", "--slow", "site-3=40x")
    program(*RUN, "--sites", "3", *suffering, "--store", store)
    (folder,) = (store / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    (missing,) = summary["missing"]
    assert (missing["site"], missing["outcome"]) == ("site-2", "failed")
    assert "general" in missing["models"]
    assert 0 < missing["images"] < missing["of_images"]
    assert missing["vain_seconds"] > 0
    assert summary["straggler"]["site"] == "site-3"
    assert summary["straggler"]["seconds"] > 0
    said = program("report", "--store", store, "--out", tmp_path / "report")
    assert "report.html" in said
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Cost of the missing sites" in page


@pytest.mark.slow
def test_83_what_is_secret_stays_in_the_environment_the_configuration_and_the_trace(
    tmp_path: Path,
) -> None:
    """A token in the environment, a comment in the configuration, a case's name in an error."""
    store, config = tmp_path / "store", tmp_path / "c.yaml"
    secrets = {name: f"canary-{name}-5f1c" for name in ("token", "comment", "case", "variable")}
    config.write_text(f"# {secrets['comment']}\nseed: 3\n")
    environment = {
        "RAY_AUTH_TOKEN": secrets["token"],
        "HOSPITAL_PASSWORD": secrets["variable"],
        toys.BREAK: f"release@site-2: cannot read {secrets['case']}",
    }
    given = ["--sites", "3", "--min-sites", "2", "--config", str(config), "--store", str(store)]
    said = ""
    for arguments in ([*RUN, *given], ["report", "--store", str(store), "--out", str(tmp_path)]):
        done = subprocess.run(
            [sys.executable, "-m", "tests.toys", *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said += (done.stdout + done.stderr).decode()
    assert "site-2: FAILED: release: ValueError" in said
    traces = list(store.glob("sites/site-2/stages/release-*/error.txt"))
    assert secrets["case"] in traces[0].read_text()
    told = [file for file in tmp_path.rglob("*") if file.is_file()]
    told = [file for file in told if file not in (config, *traces)]
    assert {"mlflow.db", "report.html", "summary.json"} <= {file.name for file in told}
    for secret in secrets.values():
        assert secret not in said
        assert not [file for file in told if secret.encode() in file.read_bytes()]


def test_25_a_store_that_cannot_be_written_is_an_error_before_anything_runs(
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    (store / "sites").mkdir(parents=True)
    (store / "store.json").write_text('{"store_version": 1}')
    command = f"{sys.executable} -m tests.toys {' '.join(RUN)} --store {store}"
    frozen = f"mount --bind {store} {store} && mount -o remount,ro,bind {store} && {command}"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", frozen],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr.split("\n")[0]:
        pytest.skip("this machine lets nobody mount; a read-only folder stops no root")
    assert done.returncode == 2, done.stderr
    assert "(Read-only file system)" in done.stderr
    assert [f.name for f in sorted(store.iterdir())] == ["sites", "store.json"]
