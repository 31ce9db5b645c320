"""Commands on Ray that are told to end; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from hyfree_ray.core.interrupts import GO_ON
from hyfree_ray.core.processes import descendants
from tests.chaos.programs import begun, under_way
from tests.faults.test_signals import SMOKE, STAGE

pytestmark = pytest.mark.chaos


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
    assert "run the same command again" in errors
    wait_until_ended(family, begun + 20)


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
    assert "run the same command again" in errors
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
    assert GO_ON in errors
    assert "Traceback" not in errors
    wait_until_ended(family, begun + 20)
