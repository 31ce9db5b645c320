"""Commands that are told to end; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.journal import METRICS
from hyfree_ray.core.processes import descendants
from tests.chaos import toys
from tests.chaos.conftest import Program, Start
from tests.chaos.hospitals import write_hospitals
from tests.chaos.programs import begun, under_way

SMOKE = ("--budget", "smoke", "--generator", "flow", "--device", "cpu", "--set", "precision=fp32")
STAGE = "**/stages/train_generator-*"


def command_of(kind: str, root: Path) -> tuple[str, ...]:
    if kind == "simulate":
        return ("simulate", *SMOKE, "--ray", "off", "--settings", "", "--store", str(root / "s"))
    _, own = write_hospitals(root)
    at = ("--data", str(own["alpha"]), "--site", "alpha", "--store", str(root / "s"))
    return ("site", "contribute", *at, *SMOKE, "--out", str(root / "release"))


@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("contribute", signal.SIGINT, 130),
        ("simulate", signal.SIGTERM, 143),
        pytest.param("contribute", signal.SIGTERM, 143, marks=pytest.mark.chaos),
        pytest.param("simulate", signal.SIGINT, 130, marks=pytest.mark.chaos),
    ],
)
def test_07_08_a_training_that_is_told_to_end_does_so_and_loses_one_interval_at_most(
    start: Start, program: Program, tmp_path: Path, kind: str, number: int, code: int
) -> None:
    """The signal comes after the second checkpoint, within a step of ten seconds."""
    command, log = command_of(kind, tmp_path), tmp_path / "run"
    process = start(log, *command, program=toys.program, step_s=0.2)
    wait_for(tmp_path / "s", f"{STAGE}/checkpoints/*2.sha256", process)
    begun = time.monotonic()
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == code
    assert time.monotonic() - begun < 10
    said = Path(f"{log}.log").read_text()
    assert "nothing is lost: to go on, give the same command again" in said
    assert "Traceback" not in said
    program(*command)
    (metrics,) = list((tmp_path / "s").glob(f"{STAGE}/{METRICS}"))[:1]
    assert toys.STEPS <= len(metrics.read_text().splitlines()) <= toys.STEPS + 1


def wait_for(store: Path, pattern: str, process: Any) -> None:
    deadline = time.monotonic() + 60
    while not list(store.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.exitcode is None
        time.sleep(0.01)


@pytest.mark.chaos
def test_07_ctrl_c_twice_ends_at_once_and_leaves_nobody_behind(
    training_on_ray: subprocess.Popen[str],
) -> None:
    """On Ray, with its processes."""
    process = training_on_ray
    family = descendants(process.pid)
    assert len(family) > 5
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 130, errors
    assert "give the same command again" in errors
    wait_until_ended(family, begun + 20)


@pytest.mark.chaos
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_07_08_a_run_that_is_told_to_end_while_ray_starts_leaves_nobody_behind(
    tmp_path: Path, number: int, code: int
) -> None:
    """Ray's own handler, which it sets when it starts, would end it with 15 and without a word."""
    command = ("simulate", "--sites", "2", *SMOKE)
    with begun(tmp_path / "s", *command, until=ray_begins) as process:
        time.sleep(0.2)
        family = descendants(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "give the same command again" in errors
    wait_until_ended(family, time.monotonic() + 20)


def wait_until_ended(family: set[int], deadline: float) -> None:
    while left := [f"{pid}: {line_of(pid)}" for pid in family if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def ray_begins(process: subprocess.Popen[str]) -> bool:
    return any("gcs_server" in line_of(pid) for pid in descendants(process.pid))


def line_of(pid: int) -> str:
    """Its command line; empty where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


STUDY = """
simulate: {sites: 2, budget: smoke, generator: flow, settings: []}
grid: {precision: [fp32], seed: [0], threshold_percentile: [1.0, 2.0]}
"""
"""Two simulations, one after the other: that of a phase, and then that of the next."""


@pytest.mark.chaos
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_07_08_a_study_on_ray_that_is_told_to_end_does_so_and_leaves_nobody_behind(
    tmp_path: Path, number: int, code: int
) -> None:
    """Ray and Ray Tune have handlers of their own for both signals."""
    (tmp_path / "study.yaml").write_text(STUDY)
    with under_way(
        tmp_path / "s",
        *("study", str(tmp_path / "study.yaml"), "--parallel", "1"),
        checkpoint=f"{STAGE}/checkpoints/*.sha256",
    ) as process:
        family = descendants(process.pid)
        begun = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        took = time.monotonic() - begun
    assert process.returncode == code, errors
    assert took < 10
    assert "nothing is lost: to go on, give the same command again" in errors
    assert "Traceback" not in errors
    wait_until_ended(family, begun + 20)


def test_a_stage_that_breaks_in_a_program_on_files_is_one_line(
    start: Start, tmp_path: Path
) -> None:
    command, log = command_of("contribute", tmp_path), tmp_path / "run"
    process = start(log, *command, program=toys.program, largest_file=20_000)
    process.join()
    assert process.exitcode == 1
    said = Path(f"{log}.log").read_text()
    assert "error: alpha: the stage train_" in said
    assert "Traceback" not in said
    assert not (tmp_path / "release").exists()


def test_where_scores_cannot_be_written_is_said_before_anything_is_computed(
    program: Program, tmp_path: Path
) -> None:
    _, own = write_hospitals(tmp_path)
    at = ("--data", own["alpha"], "--site", "alpha", "--store", tmp_path / "s")
    said = program("site", "score", *at, *SMOKE, "--out", tmp_path / "x" / "y.csv", code=2)
    assert f"--out {tmp_path}/x/y.csv: {tmp_path}/x is no folder; make it first" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("command", [("contribute",), ("personalise", "--general", "nowhere")])
def test_a_folder_that_is_not_free_is_said_before_anything_is_computed(
    program: Program, tmp_path: Path, command: tuple[str, ...]
) -> None:
    _, own = write_hospitals(tmp_path)
    at = ("--data", own["alpha"], "--site", "alpha", "--store", tmp_path / "s")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    said = program("site", *command, *at, *SMOKE, "--out", tmp_path / "full", code=2)
    assert "is there already; name a new or an empty folder by --out" in said
    below = tmp_path / "full" / "notes.txt" / "out"
    said = program("site", *command, *at, *SMOKE, "--out", below, code=2)
    assert "notes.txt/out: cannot be written (Not a directory); mend that or name another" in said
    assert not (tmp_path / "s").exists()
