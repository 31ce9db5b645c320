"""A command that is told to end, by whatever it is held up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HELD_UP = """
import subprocess, sys, time
from hyfree_ray.commands import ending

ending.PATIENCE_S = 0.5
with ending.ends_at_signals():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            {then}
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("then", ["pass", "raise"])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_command_ends_with_its_processes_also_if_a_library_swallows_the_signal(
    number: int, code: int, word: str, then: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD_UP.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        child = int(process.stdout.readline())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == f"{word}; nothing is lost: to go on, give the same command again\n"
    deadline = time.monotonic() + 10
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_signals_are_what_they_were_after_a_command() -> None:
    from hyfree_ray.commands.ending import ends_at_signals

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ends_at_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
