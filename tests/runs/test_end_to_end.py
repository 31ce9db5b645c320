"""The whole method at the smoke budget: really run, really killed, really resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.core.records import RECORD
from hyfree_ray.evaluation.regimes import protocol
from hyfree_ray.evaluation.scores import read_results
from tests.command import SIMULATE, Command, simulate

OURS = re.compile(r"\d\d:\d\d:\d\d ")
"""How a line of the log begins."""

DEFAULT_SETTINGS = ("personalised", "chosen", "real-all")


def table(store: Path) -> bytes:
    (folder,) = (store / "runs").iterdir()
    return (folder / "results.csv").read_bytes()


def run_folder(store: Path) -> Path:
    (folder,) = (store / "runs").iterdir()
    return folder


def test_a_run_leaves_what_people_script_against(whole: tuple[Path, str]) -> None:
    store, printed = whole
    folder = run_folder(store)
    assert re.fullmatch(r"Phantom-[0-9a-f]{8}", folder.name)
    rows = read_results(folder / "results.csv")
    assert {row.regime for row in rows} == {*protocol(), *DEFAULT_SETTINGS}
    assert {row.metric for row in rows} == {"dice", "hd95", "nsd", "volume_error"}
    assert {row.test_site for row in rows} == {"site-1", "site-2"}
    assert sorted(file.name for file in (folder / "samples").iterdir()) == [
        "site-1.png",
        "site-2.png",
    ]
    assert (store / "mlflow.db").exists()
    last = printed.strip().splitlines()[-1]
    assert last.startswith("mlflow ui --backend-store-uri sqlite:///")


def test_finished_runs_are_listed(whole: tuple[Path, str]) -> None:
    result = CliRunner().invoke(main, ["runs", "ls", "--store", str(whole[0]), "--format", "json"])
    (row,) = json.loads(result.stdout)
    assert row["run"] == run_folder(whole[0]).name
    assert (row["sites"], row["fold"], row["seed"]) == (2, 0, 0)


def test_the_summary_tells_compute_borders_and_every_resolved_number(
    whole: tuple[Path, str],
) -> None:
    summary = json.loads((run_folder(whole[0]) / "summary.json").read_text())
    assert summary["experiment"]["budget"]["unet"]["epochs"] == 3
    assert summary["compute"]["site-1"]["train_generator"]["device_seconds"] > 0
    assert summary["derived"]["site-2"]["prepare"]["patch_size"]
    crossed = {(entry["stage"], entry["to"]) for entry in summary["ledger"]}
    assert ("release", "pool") in crossed
    assert ("train_general", "site-1") in crossed
    assert all(len(entry["sha256"]) == 64 for entry in summary["ledger"])


def test_the_timeline_is_a_chrome_trace_of_every_stage(whole: tuple[Path, str]) -> None:
    store, _ = whole
    events = json.loads((run_folder(store) / "timeline.json").read_text())
    stages = [event for event in events if event["ph"] == "X"]
    records = list(store.glob("*/stages/*/record.json")) + list(
        store.glob("sites/*/stages/*/record.json")
    )
    assert len(stages) == len(records)
    assert all(event["dur"] >= 0 for event in stages)


def test_the_runs_folder_is_rebuilt_from_the_store(whole: tuple[Path, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole[0], store)
    folder = run_folder(store)
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    shutil.rmtree(folder)
    again = simulate(store)
    assert again.returncode == 0, again.stderr
    after = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after.keys() == before.keys()
    for name in ("results.csv", "table.txt", "samples/site-1.png"):
        assert after[Path(name)] == before[Path(name)], name


@pytest.mark.parametrize(
    ("file", "content"),
    [("written", b"other code"), ("written", b"\xff\xfe\0"), ("summary.json", b"{")],
)
def test_a_folder_that_other_code_wrote_or_that_is_damaged_is_written_again_from_the_records(
    whole: tuple[Path, str], tmp_path: Path, file: str, content: bytes
) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole[0], store)
    (folder,) = (store / "runs").iterdir()
    expected = (folder / "table.txt").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)}
    (folder / "table.txt").write_text("in other words")
    (folder / file).write_bytes(content)
    again = simulate(store)
    assert again.returncode == 0, again.stderr
    assert "all stages are already done" in again.stdout
    assert (folder / "table.txt").read_bytes() == expected
    assert {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)} == before


def test_the_same_command_again_runs_nothing_and_says_the_same(whole: tuple[Path, str]) -> None:
    store, printed = whole
    before = {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)}
    begun = time.monotonic()
    again = simulate(store)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begun < 15
    assert "all stages are already done" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)} == before
    assert printed.splitlines()[-12:] == again.stdout.splitlines()[-12:]


@pytest.mark.timeout(1800)  # two whole runs, the second at low priority beside other tests
def test_ray_and_no_ray_give_the_same_table(whole: tuple[Path, str], tmp_path: Path) -> None:
    """The paper's protocol, its general model by Ray Train; the only whole run on Ray."""
    command = [sys.executable, "-m", "hyfree_ray.cli", *SIMULATE, "--settings", ""]
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here, there = (
        read_results(run_folder(store) / "results.csv") for store in (whole[0], tmp_path / "store")
    )
    assert {row.regime for row in there} == set(protocol())
    run = there[0].run
    assert there == [replace(row, run=run) for row in here if row.regime in protocol()]
    others = [line for line in done.stderr.splitlines() if not OURS.match(line)]
    assert not others, "what Ray says of itself is no user's concern"
    assert "(raylet)" not in done.stdout


def kill_at(store: Path, pattern: str, *options: str) -> None:
    """Start a run and kill all of its process group once a file of that pattern is there."""
    command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--budget", "smoke"]
    process = subprocess.Popen(
        [*command, "--store", str(store), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list(store.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None, f"ended before {pattern}"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_checkpoints_and_ends_with_the_same_table(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    """Cases 1 and 5: SIGKILL in each kind of training, the general one under Ray Train."""
    store = tmp_path / "store"
    kill_at(store, "**/train_generator-*/checkpoints/*.sha256", "--ray", "off")
    kill_at(store, "**/train_segmenter-*/checkpoints/*.sha256", "--ray", "off")
    kill_at(store, "pool/**/train_general-*/checkpoints/*.sha256", "--ray", "local")
    kill_at(store, "**/prepare_for_general-*/record.json", "--ray", "off")
    done = simulate(store, "--ray", "off")
    assert done.returncode == 0, done.stderr
    assert "stages are already done" in done.stdout
    assert table(store) == table(whole[0])
    attempts = list(store.glob("pool/stages/train_general-*/attempts.jsonl"))
    assert len(attempts[0].read_text().splitlines()) == 2


def test_one_more_site_reuses_what_the_others_have_done(whole: tuple[Path, str]) -> None:
    store, _ = whole
    plan = simulate(store, "--sites", "3", "--dry-run", "--format", "json")
    steps = json.loads(plan.stdout)["steps"]
    old = [step for step in steps if step["owner"] in {"site-1", "site-2"}]
    after_the_pool = {
        "audit_general",
        "prepare_for_general",
        "finetuned",
        "prepare_replay",
        "personalised",
        "score",
    }
    for step in old:
        assert step["done"] or step["stage"] in after_the_pool, step
    assert not any(step["done"] for step in steps if step["owner"] == "site-3")


@pytest.mark.parametrize(
    ("number", "code", "ray"),
    [
        (signal.SIGINT, 130, "off"),
        (signal.SIGTERM, 143, "off"),
        (signal.SIGTERM, 143, "local"),
        pytest.param(signal.SIGINT, 130, "local", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_soon_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int, ray: str
) -> None:
    """Cases 7 and 8."""
    store = tmp_path / "store"
    command = Command(*SIMULATE, "--store", store, "--ray", ray)
    command.wait_until(lambda: list(store.glob("**/stages/prepare-*/attempts.jsonl")))
    command.send(number)
    begun = time.monotonic()
    done = command.ended(timeout=60)
    assert time.monotonic() - begun < 10
    assert done.returncode == code, done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
