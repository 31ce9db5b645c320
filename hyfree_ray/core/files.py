"""Files and folders that are there whole or not at all, and files of others that are opened without
trust.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hyfree_ray.core.errors import HyfreeError

UNFINISHED = ".unfinished"
"""In a folder whose content is being exchanged: what comes, and the marker of what goes."""

LOCK_FILE = ".lock"
"""In a folder that is held for one process."""

COMING, GOING = f"{UNFINISHED}/new", f"{UNFINISHED}/old"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
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


@contextmanager
def refilling(folder: Path, marker: str, older: Collection[str]) -> Iterator[Path]:
    """A folder's new content, which takes the older one's place once all of it is written.

    Before that the folder holds what it held; while files are exchanged it has no marker. Whoever
    is killed leaves `UNFINISHED` behind, by which the folder is known when he comes again.

    Args:
        folder: made if it is not there.
        marker: the file that says that the content is whole.
        older: files and folders that go, relative to the folder; everything else stays.

    Yields:
        Where to write the content, the marker too.
    """
    unfinished = folder / UNFINISHED
    # Of an exchange that was broken off: nothing else says that the folder is ours.
    broken_off = unfinished.exists() and not (folder / marker).exists()
    if broken_off:
        _remove_files(folder, older)
    _empty(folder)
    for part in (COMING, GOING):
        (folder / part).mkdir(parents=True)
    try:
        yield folder / COMING
    except BaseException:
        _empty(folder)
        with suppress(OSError):
            if not broken_off:
                unfinished.rmdir()
            folder.rmdir()  # where it holds nothing
        raise
    if (folder / marker).exists():
        (folder / marker).replace(folder / GOING / marker)
    _remove_files(folder, older)
    coming = [path for path in (folder / COMING).rglob("*") if path.is_file()]
    for path in sorted(coming, key=lambda path: path == folder / COMING / marker):
        target = folder / path.relative_to(folder / COMING)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(unfinished)


def _empty(folder: Path) -> None:
    """Remove what is in `UNFINISHED`, and not itself."""
    for part in (COMING, GOING):
        shutil.rmtree(folder / part, ignore_errors=True)


@contextmanager
def filling(folder: Path, option: str = "--out") -> Iterator[Path]:
    """A new folder's content, all of it or nothing.

    Args:
        folder: new or empty, now and when the content is written.
        option: by which another is named.

    Yields:
        Where to write the content, beside the folder.

    Raises:
        HyfreeError: the folder has been used meanwhile.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        check_free(folder, option)
        if folder.exists():
            for left in folder.iterdir():  # of who has looked whether it can write there
                left.unlink()
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_files(folder: Path, names: Collection[str]) -> None:
    """Remove files, and the folders that hold nothing without them."""
    paths = {path for name in names for path in (Path(name), *Path(name).parents)} - {Path()}
    for path in sorted((folder / path for path in paths), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def is_free(folder: Path) -> bool:
    """Whether a folder is a new or an empty one, but for what a process writes or locks in it."""
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and all(
        path.name == LOCK_FILE or (path.name.startswith(".") and path.suffix == ".tmp")
        for path in folder.iterdir()
    )


def check_free(folder: Path, option: str = "--out") -> None:
    """See that a folder is a new or an empty one, and can be written to.

    Args:
        folder: that is to be written.
        option: by which another is named.

    Raises:
        HyfreeError: it is neither, or cannot.
    """
    with writing_to(folder, option):
        if not is_free(folder):
            raise taken_by_something_else(folder, option)
        try_to_write(folder)


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


def taken_by_something_else(folder: Path, option: str = "--out") -> HyfreeError:
    """What `check_free` says."""
    return HyfreeError(
        "output.not-empty", f"{folder}: is there already; name a new or an empty folder by {option}"
    )


@contextmanager
def writing_to(path: Path, option: str = "--out") -> Iterator[None]:
    """Say in one line that something cannot be written.

    Raises:
        HyfreeError: for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise HyfreeError(
            "output.not-writable",
            f"{path}: cannot be written ({reason}); mend that or name another by {option}",
        ) from error


class UntrustedFileError(ValueError):
    """A file that is not read; `rule` is a short stable name."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_untrusted(path: Path, *, most: int, expected: int | None = None) -> bytes:
    """All bytes of a file that somebody else put there, through one descriptor, never waiting.

    They are copied, once: a file that is only mapped can still be changed after it was checked.

    Args:
        most: a file with more bytes is not read.
        expected: how many bytes it must have, if that is known.

    Raises:
        UntrustedFileError: `missing`, `not-a-file` (a link, pipe, device or folder), `too-large`,
            `bytes` (not as many as expected, or changed while it was read).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise UntrustedFileError("missing", f"there is no {path.name}") from error
    except OSError as error:
        raise UntrustedFileError("not-a-file", f"{path.name} is no ordinary file") from error
    # By descriptor, because Python's own `open` looks at a folder twice and refuses it differently.
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedFileError("not-a-file", f"{path.name} is no ordinary file")
        size = status.st_size
        if size > most:
            raise UntrustedFileError("too-large", f"{path.name} has {size} bytes, over {most}")
        if expected not in (None, size):
            raise UntrustedFileError("bytes", f"{path.name} has {size} bytes, not {expected}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(size)
            if len(content) != size or file.read(1):
                raise UntrustedFileError("bytes", f"{path.name} changed while it was read")
    finally:
        os.close(descriptor)
    return content
