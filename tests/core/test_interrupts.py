"""A command that is told to end, by whatever it is held up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyfree_ray.core.interrupts import GO_ON, run_interruptible

HELD_UP = """
import os, signal, subprocess, sys, threading, time
from hyfree_ray.core import interrupts

interrupts.PATIENCE_S = 0.5

def wait():
    while True:
        time.sleep(0.01)

def swallow():
    while True:
        try:
            wait()
        except KeyboardInterrupt:
            pass

def finish():
    try:
        wait()
    except KeyboardInterrupt:
        pass

def rename():
    try:
        wait()
    except BaseException:
        raise RuntimeError("a library's own")

def end_slowly():
    # Python waits for such a thread, and a stage may run in it.
    threading.Thread(target=time.sleep, args=(60,)).start()
    wait()

def without_output():
    sys.stdout = None
    wait()

def fill():
    try:
        sys.stdout.write("." * 1_000_000)  # more than a pipe takes
    finally:
        sys.stdout.write("and what is left")

def interrupt_itself():
    killed = interrupts.kill_descendants
    def kill(spared):
        os.kill(os.getpid(), signal.SIGINT)
        killed(spared)
    interrupts.kill_descendants = kill
    interrupts.exit_now("error: a stage broke", 1)

def burst():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    print(flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    swallow()

def command():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    {body}()

interrupts.run_interruptible(command)
"""

SAID = {
    130: f"interrupted; {GO_ON}\n",
    143: f"terminated; {GO_ON}\n",
}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b") ", 1)[1][:1] != b"Z"
    except OSError:
        return False


def assert_ends(pid: int) -> None:
    deadline = time.monotonic() + 10
    while runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def held_up(body: str, prefix: str = "") -> subprocess.Popen[str]:
    code = HELD_UP.format(body=body)
    return subprocess.Popen(
        ["sh", "-c", f'{prefix} exec "$@"', "sh", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "body", ["wait", "swallow", "finish", "rename", "end_slowly", "without_output"]
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends_with_its_processes_whatever_a_library_makes_of_the_signal(
    number: int, code: int, body: str
) -> None:
    with held_up(body) as process:
        child = int(process.stdout.readline())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, SAID[code])
    assert_ends(child)


def test_two_signals_at_once_end_a_command_as_one_does() -> None:
    with held_up("burst") as process:
        child = int(process.stdout.readline())
        _, said = process.communicate(timeout=60)
    assert said == SAID[process.returncode]
    assert_ends(child)


def test_a_command_ends_whose_messages_nobody_reads_any_more() -> None:
    """As under `2>&1 | tee log`, where Ctrl-C ends both."""
    with held_up("end_slowly") as process:
        child = int(process.stdout.readline())
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert_ends(child)


def test_a_command_ends_whose_reader_has_stopped() -> None:
    """As a pager has, or a terminal at Ctrl-S."""
    with held_up("fill") as process:
        child = int(process.stdout.readline())
        time.sleep(0.2)  # until it waits for its reader
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert_ends(child)


def test_a_command_that_ends_already_is_not_held_up_by_a_signal() -> None:
    with held_up("interrupt_itself") as process:
        child = int(process.stdout.readline())
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "error: a stage broke\n")
    assert_ends(child)


def test_a_process_of_any_name_beside_it_does_not_hold_up_the_end() -> None:
    """Half of an umlaut: the kernel cuts names to 15 bytes."""
    named = r"import time; open('/proc/self/comm', 'wb').write(b'\xc3) \xc3'); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", named]) as other:
        try:
            while b"\xc3" not in Path(f"/proc/{other.pid}/comm").read_bytes():
                time.sleep(0.01)
            with held_up("wait") as process:
                child = int(process.stdout.readline())
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=60) == 143
            assert_ends(child)
            assert runs(other.pid)
        finally:
            other.kill()


def test_what_ran_before_the_command_took_over_its_shell_goes_on() -> None:
    with held_up("wait", prefix="sleep 600 >&- 2>&- & echo $!;") as process:
        before, child = int(process.stdout.readline()), int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert_ends(child)
    assert runs(before)
    os.kill(before, signal.SIGKILL)


def test_signals_are_what_they_were_after_a_command() -> None:
    def handlers() -> list[Callable | int | None]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    during = run_interruptible(handlers)
    assert not set(during) & set(before)
    assert handlers() == before
