"""Fill folders whole or not at all, and see that a folder is free before anything is computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import LOCK_FILE, try_to_write, writing_to

UNFINISHED = ".unfinished"
"""In a folder whose content is being exchanged: what comes, and the marker of what goes."""

COMING, GOING = f"{UNFINISHED}/new", f"{UNFINISHED}/old"


@contextmanager
def refilling(folder: Path, marker: str, older: Collection[str]) -> Iterator[Path]:
    """Exchange a folder's content: the new takes the older one's place once all is written.

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
    """Fill a new folder with all of its content or nothing.

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
    """Return whether a folder is new or empty, but for what a process writes or locks in it."""
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
            raise not_empty_error(folder, option)
        try_to_write(folder)


def not_empty_error(folder: Path, option: str = "--out") -> HyfreeError:
    """Make the error of `check_free`."""
    return HyfreeError(
        "output.not-empty", f"{folder}: already exists; name a new or empty folder with {option}"
    )
