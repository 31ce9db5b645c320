"""Try somebody else's file in a process of its own, which may end without harm.

What nobody has thought of yet (a fault in a C library, a file that makes something allocate or
loop) meets a limit on memory and time there. The process imports nothing from the working directory
and inherits no token. It is no sandbox: it is the same user.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hyfree_ray.core.isolation import isolated_command

_READY = b"ready"
"""The child's first line: from here on, a file is to blame if the child ends."""

_START_SECONDS = 60
"""Time for the interpreter and its imports, on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class ChildEnd:
    """What a child printed, and how it ended."""

    lines: list[bytes]
    """Whole lines after the first."""
    code: int
    """Its exit code; of a signal the negative number."""
    late: bool
    """It took longer than it was given."""

    @property
    def cause(self) -> tuple[str, str]:
        """The rule that a child without an answer stands for (`timeout`, `memory`, `crash`), and a
        message."""
        if self.late or -self.code in (signal.SIGALRM, signal.SIGXCPU):
            return "timeout", "the check took longer than the size allows"
        if -self.code == signal.SIGKILL:
            return "memory", "the check was killed, probably for lack of memory"
        return "crash", f"the process of the check crashed (code {self.code})"


def run_child(program: str, tasks: bytes, seconds: float) -> ChildEnd:
    """Run a program text in a child that calls `begin`, and wait for its end.

    Args:
        program: see `isolated_command`.
        tasks: its standard input.
        seconds: after these, beside the time to start, it is killed.

    Raises:
        ChildProcessError: it ended before it called `begin`, which is no file's fault.
    """
    child = subprocess.Popen(
        isolated_command(program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    late = False
    try:
        output, _ = child.communicate(tasks, timeout=_START_SECONDS + seconds)
    except subprocess.TimeoutExpired:
        late = True
        child.kill()
        output, _ = child.communicate()
    finally:
        child.kill()
    ready, *lines = output.split(b"\n")[:-1] or [b""]
    if ready != _READY:
        raise ChildProcessError(f"the check did not start (code {child.returncode})")
    return ChildEnd(lines=lines, code=child.returncode, late=late)


def _environment() -> dict[str, str]:
    """Return only the variables that Python needs, so that the child inherits no token."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        # Threads and allocators that reserve address space would count against the limit.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


# --- in the child --------------------------------------------------------------------------------


def begin() -> None:
    """Say that the child is ready, once all is imported; from here on it writes no file."""
    with contextlib.suppress(OSError):  # where memory runs out, this process is ended first
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # An interrupt signals the whole process group; no file is to blame for that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # have the kernel end this process when its parent ends
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    print(_READY.decode(), flush=True)


def address_space() -> int:
    """Return the bytes of address space that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def limit(memory: int, seconds: int) -> None:
    """Limit this process from now on.

    Args:
        memory: address space, in bytes in all.
        seconds: from now, before SIGALRM ends it.
    """
    signal.alarm(seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        memory = min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
