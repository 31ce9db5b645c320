"""Guard against mistakes: a stage opens the files of its own party and no other's.

A hook (`sys.addaudithook`, PEP 578) sees each file that Python code opens and each folder that it
lists, in the stage's thread and in what copies its context, and refuses what a stage has no
business with. It is no sandbox and no protection against an attacker on the same account: it does
not see a rename or a removal, a thread that a library starts without that context, what a C library
opens by itself (readers that do so ask `check_path` first), nor what another process opens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import PrivacyError

_WRITES = os.O_WRONLY | os.O_RDWR


class Confinement:
    """What one stage may open. Outside of `zone` (libraries, devices, temporary files) all is free.

    Args:
        owner: whose stage it is.
        stage: its name.
        zone: folders that are guarded: the store with all its parties, a raw data set.
        own: folders and files in there that it may read.
        out: the folder in there that it may write to.
    """

    def __init__(
        self, *, owner: str, stage: str, zone: Iterable[Path], own: Iterable[Path], out: Path
    ) -> None:
        self.owner, self.stage = owner, stage
        self._zone = tuple(os.path.realpath(folder) for folder in zone)
        self._own = frozenset(os.path.realpath(path) for path in own)
        self._out = os.path.realpath(out)
        self.refused = 0

    def check(self, path: Any, *, writes: bool = False) -> None:
        """Let a path pass or raise.

        Raises:
            PrivacyError: it is another party's; the message names the stage's owner and no path.
        """
        if isinstance(path, int):
            return  # a descriptor: what it was opened by has been checked
        real = os.path.realpath(os.fsdecode("." if path is None else path))
        if not any(_under(real, folder) for folder in self._zone):
            return
        if _under(real, self._out) or (not writes and self._is_own(real)):
            return
        self.refused += 1
        raise self.error()

    def error(self) -> PrivacyError:
        """Make the error of a file that was refused."""
        return PrivacyError(
            "privacy.foreign-file",
            f"{self.owner}: the stage {self.stage} was stopped because it tried to open another "
            "party's file; this is a fault in the stage: please report it",
        )

    def _is_own(self, real: str) -> bool:
        while real:
            if real in self._own:
                return True
            real = real.rpartition(os.sep)[0]
        return False


def _under(real: str, folder: str) -> bool:
    return real == folder or real.startswith(folder + os.sep)


_CURRENT: ContextVar[Confinement | None] = ContextVar("confinement", default=None)


@dataclass
class _Installed:
    """Hooks cannot be removed: there is one a process, and it does nothing outside of a stage."""

    done: bool = False


_INSTALLED = _Installed()


def _hook(event: str, arguments: tuple[Any, ...], current: Any = _CURRENT) -> None:
    if event == "open":
        confinement = current.get()
        if confinement is not None:
            path, _, flags = arguments
            confinement.check(path, writes=bool((flags or 0) & _WRITES))
    elif event in ("os.listdir", "os.scandir"):
        confinement = current.get()
        if confinement is not None:
            confinement.check(arguments[0])


@contextmanager
def confined(confinement: Confinement) -> Iterator[None]:
    """Hold this thread (and what copies its context) to a confinement.

    Raises:
        PrivacyError: something was refused, even where the code inside passed over it.
    """
    if not _INSTALLED.done:
        sys.addaudithook(_hook)
        _INSTALLED.done = True
    token = _CURRENT.set(confinement)
    try:
        yield
    finally:
        _CURRENT.reset(token)
    if confinement.refused:
        raise confinement.error()


def check_path(path: Path) -> None:
    """Check what a reader outside of Python is about to open.

    Raises:
        PrivacyError: see `Confinement.check`.
    """
    confinement = _CURRENT.get()
    if confinement is not None:
        confinement.check(path)
