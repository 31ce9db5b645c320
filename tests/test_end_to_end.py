"""The whole method at the smoke budget: really run, really killed, really resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyfree_ray.scores import read_results
from hyfree_ray.store import RECORD


def simulate(store: Path, *options: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--budget", "smoke"]
    return subprocess.run(
        [*command, "--store", str(store), *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def table(store: Path) -> bytes:
    (folder,) = (store / "runs").iterdir()
    return (folder / "results.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run of two sites without Ray: its store and what it printed."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = simulate(store, "--ray", "off")
    assert done.returncode == 0, done.stderr
    return store, done.stdout


def run_folder(store: Path) -> Path:
    (folder,) = (store / "runs").iterdir()
    return folder


def test_a_run_leaves_what_people_script_against(whole: tuple[Path, str]) -> None:
    store, printed = whole
    folder = run_folder(store)
    assert re.fullmatch(r"Phantom-[0-9a-f]{8}", folder.name)
    rows = read_results(folder / "results.csv")
    assert {row.regime for row in rows} == {"local", "local2x", "general", "finetuned"}
    assert {row.metric for row in rows} == {"dice", "hd95"}
    assert {row.test_site for row in rows} == {"site-1", "site-2"}
    assert sorted(file.name for file in (folder / "samples").iterdir()) == [
        "site-1.png",
        "site-2.png",
    ]
    assert (store / "mlflow.db").exists()
    last = printed.strip().splitlines()[-1]
    assert last.startswith("mlflow ui --backend-store-uri sqlite:///")


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


def test_real_images_stay_in_the_sites_folders(whole: tuple[Path, str]) -> None:
    store, _ = whole
    audits = list(store.glob("sites/*/audit/nearest_pairs-*.png"))
    assert len(audits) == 2
    outside = [p for folder in ("pool", "runs", "mlartifacts") for p in (store / folder).rglob("*")]
    assert not [p for p in outside if "nearest" in p.name or p.name == "view.npz"]
    text = "".join(p.read_text(errors="ignore") for p in outside if p.suffix in {".json", ".csv"})
    assert "p001" not in text  # names of phantom cases and patients


def test_the_same_command_again_runs_nothing_and_says_the_same(whole: tuple[Path, str]) -> None:
    store, printed = whole
    before = {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)}
    begun = time.monotonic()
    again = simulate(store)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begun < 15
    assert "everything is done already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in store.rglob(RECORD)} == before
    assert printed.splitlines()[-12:] == again.stdout.splitlines()[-12:]


def test_ray_and_no_ray_give_the_same_table(whole: tuple[Path, str], tmp_path: Path) -> None:
    done = simulate(tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "store") == table(whole[0])


def test_a_killed_run_goes_on_and_ends_with_the_same_table(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    """SIGKILL of the whole process group in the middle of trainings, three times."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--budget", "smoke"]
    for stage in ("train_generator", "train_general", "prepare_for_general"):
        process = subprocess.Popen(
            [*command, "--store", str(store), "--ray", "off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 200
        while not list(store.glob(f"**/stages/{stage}-*/attempts.jsonl")):
            assert time.monotonic() < deadline
            assert process.poll() is None, f"ended before {stage}"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = simulate(store, "--ray", "off")
    assert done.returncode == 0, done.stderr
    assert "stages are done already" in done.stdout
    assert table(store) == table(whole[0])


def test_one_more_site_reuses_what_the_others_have_done(whole: tuple[Path, str]) -> None:
    store, _ = whole
    plan = simulate(store, "--sites", "3", "--dry-run", "--format", "json")
    steps = json.loads(plan.stdout)["steps"]
    old = [step for step in steps if step["owner"] in {"site-1", "site-2"}]
    for step in old:
        late = step["stage"] in {"prepare_for_general", "finetuned", "score"}
        assert step["done"] or late, step
    assert not any(step["done"] for step in steps if step["owner"] == "site-3")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_soon_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--budget", "smoke"]
    process = subprocess.Popen(
        [*command, "--store", str(store), "--ray", "off"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(store.glob("**/stages/train_generator-*/attempts.jsonl")):
        time.sleep(0.05)
    process.send_signal(number)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode == code
    assert "give the same command again" in errors
    assert "Traceback" not in errors
