"""When a stage is taken for hung, and when it is left alone."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyfree_ray.core.journal import ATTEMPTS, METRICS
from hyfree_ray.core.processes import started_at
from hyfree_ray.runners import watch

EVERY_S = 10.0


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """The watch's own clock; that of the stage is what its lines say."""
    Clock.now = 1000.0
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return Clock


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen(["sleep", "60"])
    yield found
    found.kill()
    found.wait()


def stage(folder: Path, pid: int, begun: float, **about: Any) -> Path:
    """A stage that wrote five lines, one every ten seconds."""
    attempt = {"started": begun, "pid": pid, "born": started_at(pid), "host": platform.node()}
    (folder / ATTEMPTS).write_text(json.dumps({**attempt, **about}) + "\n")
    for step in range(1, 6):
        say(folder, step, begun + EVERY_S * step)
    return folder


def say(folder: Path, step: int, when: float) -> None:
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"step": step, "total": 99, "time": when}) + "\n")


def test_a_stage_that_falls_silent_is_ended(
    tmp_path: Path, process: subprocess.Popen[bytes], clock: type[Clock]
) -> None:
    looked = watch.Watch(stage(tmp_path, process.pid, time.time() - 50), "site-1", 900.0)
    assert not looked.end_if_hung()
    clock.now += 899
    assert not looked.end_if_hung()
    clock.now += 2
    assert looked.end_if_hung()
    assert process.wait(10) == -9


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_17_a_clock_that_jumps_ends_nobody_who_works(
    tmp_path: Path, process: subprocess.Popen[bytes], clock: type[Clock], jump_s: float
) -> None:
    """The stage goes on writing; the times that it writes, and ours, are an hour away."""
    begun = time.time() - 50
    looked = watch.Watch(stage(tmp_path, process.pid, begun), "site-1", 900.0)
    for step in range(6, 200, 20):
        assert not looked.end_if_hung()
        clock.now += 225
        say(tmp_path, step, begun + EVERY_S * step + jump_s)
    stage(tmp_path, process.pid, begun - jump_s)
    assert not watch.Watch(tmp_path, "site-1", 900.0).end_if_hung()
    assert process.poll() is None


def test_a_process_that_has_the_number_of_the_stages_is_left_alone(
    tmp_path: Path, process: subprocess.Popen[bytes], clock: type[Clock]
) -> None:
    for field, value in (("born", 1), ("host", "elsewhere")):
        folder = tmp_path / field
        folder.mkdir()
        stage(folder, process.pid, time.time() - 50, **{field: value})
        looked = watch.Watch(folder, "site-1", 9.0)
        assert not looked.end_if_hung()
        clock.now += 7200
        assert not looked.end_if_hung()
    assert process.poll() is None
