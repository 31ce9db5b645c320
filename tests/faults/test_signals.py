"""Commands that are told to end; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.interrupts import GO_ON
from hyfree_ray.core.journal import METRICS
from tests import toys
from tests.hospitals import write_hospitals
from tests.toy_processes import Program, Start

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
        pytest.param("contribute", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("simulate", signal.SIGINT, 130, marks=pytest.mark.slow),
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
    assert GO_ON in said
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
    assert f"error: --out {tmp_path}/x/y.csv: " in said
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
    assert said.startswith(f"error: {tmp_path}/full: ")
    assert "--out" in said
    below = tmp_path / "full" / "notes.txt" / "out"
    said = program("site", *command, *at, *SMOKE, "--out", below, code=2)
    assert said.startswith(f"error: {below}: ")
    assert "Not a directory" in said
    assert not (tmp_path / "s").exists()
