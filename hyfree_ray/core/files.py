"""Write files that are there whole or not at all, and hold folders for one process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hyfree_ray.core.errors import HyfreeError

log = logging.getLogger("hyfree_ray")

LOCK_FILE = ".lock"
"""In a folder that is held for one process."""


_PRIVATE = 0o077
"""What a process that works on a store takes from the modes of all it writes: 700 and 600."""

_users_masks: list[int] = []
"""The user's own, once it was replaced."""


def write_privately() -> None:
    """Have this process, and all that it starts, make files for their owner alone from now on."""
    before = os.umask(_PRIVATE)
    if not _users_masks:
        _users_masks.append(before)


@contextmanager
def as_the_user_writes() -> Iterator[None]:
    """Make files with the modes that the user's own mask gives: those that are handed out."""
    if not _users_masks:
        yield
        return
    before = os.umask(_users_masks[0])
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def mask_kept() -> Iterator[None]:
    """Leave this process's mask as it was, whatever is opened inside: it may be a notebook's."""
    before = os.umask(_PRIVATE)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name `path` once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A link of this name, which somebody has put into a shared folder, is not followed.
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o666), "w+b") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # the name, too, has to be on the disk
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that `path` holds either what it held before or the whole of the new text."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes as `write_json` writes JSON."""
    with replacing(path) as file:
        file.write(content)


def write_once(path: Path, value: Any) -> Any:
    """Write JSON unless the file is there; return what it holds, whoever wrote it.

    Of two processes that come at the same time one writes and both read the same.
    """
    with locked(path.parent):
        if not path.exists():
            write_json(path, value)
    return json.loads(path.read_text())


@contextmanager
def locked(folder: Path, *, patience_s: float = 0.2) -> Iterator[None]:
    """Hold a folder for one process. The lock dies with the process that holds it.

    It is a POSIX record lock: children that a library forks do not inherit it, so that orphans of
    a killed process do not keep it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        begun, logged = time.monotonic(), False
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if not logged and time.monotonic() - begun > 5:
                    log.info("another process is working on %s; waiting for it", folder.name)
                    logged = True
                time.sleep(patience_s)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


def remove_tree(path: Path) -> None:
    """Remove a folder of intermediate files if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def try_to_write(folder: Path) -> None:
    """Find out before anything is computed, not when the first result is to be kept.

    A folder that is not there is made, and removed again.

    Raises:
        OSError: nothing can be written there.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def writing_to(path: Path, option: str = "--out") -> Iterator[None]:
    """Write what is handed out, as the user writes; say in one line that it cannot be written.

    Raises:
        HyfreeError: for any OSError inside.
    """
    try:
        with as_the_user_writes():
            yield
    except OSError as error:
        reason = error.strerror or error
        raise HyfreeError(
            "output.not-writable",
            f"{path}: cannot be written ({reason}); correct that, or name another with {option}",
        ) from error
