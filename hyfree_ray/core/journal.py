"""What a stage writes down while it runs: its curve, and who began to work on it and when."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.core.processes import started_at

METRICS = "metrics.jsonl"
"""One JSON object a line: step, total, time and what a training measured."""

ATTEMPTS = "attempts.jsonl"
"""One JSON object a line: when a process began to work on the stage, and which."""


def append_metrics(folder: Path, step: int, total: int, metrics: Mapping[str, float]) -> None:
    """Add a point to the stage's curve."""
    _append_line(folder / METRICS, {"step": step, "total": total, "time": time.time(), **metrics})


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The curve of a stage: one entry a step, the last where a step was run twice.

    A line that a crash cut short is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for entry in _lines(folder / METRICS):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            steps[int(entry["step"])] = entry
    return [steps[step] for step in sorted(steps)]


def append_attempt(folder: Path, started: float) -> None:
    """Note that this process begins to work on the stage."""
    pid = os.getpid()
    attempt = {"started": started, "pid": pid, "born": started_at(pid), "host": platform.node()}
    _append_line(folder / ATTEMPTS, attempt)


def _append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line, on a line of its own also where a crash cut the last one short."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        else:
            whole = True
        file.write((b"" if whole else b"\n") + json.dumps(value).encode() + b"\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; what a crash cut short is left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


def attempts(folder: Path) -> list[float]:
    """When each attempt at a stage began, seconds since 1970."""
    return [entry["started"] for entry in _lines(folder / ATTEMPTS) if "started" in entry]


def last_attempt(folder: Path) -> dict[str, Any] | None:
    """The newest attempt: started (seconds since 1970), pid, born, host; None before the first."""
    found = [entry for entry in _lines(folder / ATTEMPTS) if "started" in entry]
    return found[-1] if found else None


def segments(folder: Path) -> list[tuple[float, float]]:
    """When attempts without an end began and gave their last sign of life, seconds since 1970."""
    starts = attempts(folder)
    signs = [entry["time"] for entry in read_metrics(folder)]
    ends = [*starts[1:], float("inf")][: len(starts)]
    return [
        (begin, max((sign for sign in signs if begin <= sign < end), default=begin))
        for begin, end in zip(starts, ends, strict=True)
    ]


def seconds_spent(folder: Path) -> float:
    """Seconds that attempts without an end have worked."""
    return sum(end - begin for begin, end in segments(folder))
