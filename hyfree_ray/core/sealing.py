"""Put a stage's outputs on the disk and take down their hashes, before a record vouches for them.

.outputs.sha256    in the stage's folder; `sha256sum -c` reads it

A record that was synced beside outputs that were not would vouch, after a power cut, for files that
are empty. What is exported later is held to the hashes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hyfree_ray.core.files import write_bytes
from hyfree_ray.core.records import RECORD

SUMS_FILE = ".outputs.sha256"

_MANY = 64
"""Files, from which on the whole file system is synced at once: each by itself takes longer."""

_CHUNK = 1 << 20


def seal(folder: Path) -> str:
    """Sync and hash the files in a folder, and leave them to their owner alone (600, folders 700).

    Hidden files, which are a lock's or half-written, and an older record are left out.

    Returns:
        The hash of the list of hashes.

    Raises:
        OSError: the disk did not take them.
    """
    folder.chmod(0o700)
    folders, files = [folder], []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o700)
            folders.append(path)
        elif _is_output(path.relative_to(folder)):
            path.chmod(0o600)
            files.append(path)
    _sync(files, folders)
    lines = (f"{_digest(path)}  {path.relative_to(folder)}\n" for path in files)
    text = "".join(lines).encode(errors="surrogateescape")
    write_bytes(folder / SUMS_FILE, text)
    return hashlib.sha256(text).hexdigest()


def sums_of(folder: Path, outputs: str) -> dict[str, str]:
    """Return the hashes of a sealed folder's files by their names.

    Args:
        folder: the folder.
        outputs: what `seal` returned.

    Raises:
        ValueError: the list is missing, or another one.
    """
    try:
        text = (folder / SUMS_FILE).read_bytes()
    except FileNotFoundError:
        text = b""
    if hashlib.sha256(text).hexdigest() != outputs:
        raise ValueError(f"{SUMS_FILE} is not the list that was recorded")
    lines = text.decode(errors="surrogateescape").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _is_output(name: Path) -> bool:
    return name != Path(RECORD) and not any(part.startswith(".") for part in name.parts)


def _sync(files: list[Path], folders: list[Path]) -> None:
    if len(files) > _MANY and sys.platform == "linux":
        descriptor = os.open(folders[0], os.O_RDONLY)
        try:
            library = ctypes.CDLL(None, use_errno=True)
            if library.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folders[0]))
        finally:
            os.close(descriptor)
        return
    for path in _deepest_first(files, folders):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _deepest_first(files: list[Path], folders: list[Path]) -> Iterator[Path]:
    """Files before the folders that hold their names."""
    yield from files
    yield from reversed(folders)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
