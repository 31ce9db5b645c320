"""Open the root of a store, above all parties' folders, and see that this version can read it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import try_to_write, write_json, write_privately
from hyfree_ray.core.folders import is_free

STORE_VERSION = 1

DEFAULT_STORE = Path("hyfree-store")
"""In the user's folder, unless another is named."""

STORE_VARIABLE = "HYFREE_STORE"
"""Environment variable that names another."""

ROOT_FILE = "store.json"
"""At the root of a store."""


def open_root(root: Path, *, create: bool = True) -> Path:
    """Check that the store's root is one that this version can read; create it if it is missing.

    It holds real images: it is its owner's alone, and so is what this process writes from now on.

    Raises:
        HyfreeError: not writable, not a store, or written by another version.
    """
    marker = root / ROOT_FILE
    try:
        if not marker.exists():
            # Looked for again: somebody else may have made it a store meanwhile.
            if not is_free(root) and not marker.exists():
                raise HyfreeError(
                    "store.not-a-store",
                    f"{root}: not empty and not a store; name another folder with --store",
                )
            if not create:
                _check_above(root)
                return root
            write_privately()
            root.mkdir(parents=True, exist_ok=True)
            write_json(marker, {"store_version": STORE_VERSION})
        check_layout(root)
        if create:
            write_privately()
            if root.stat().st_mode & 0o077:
                root.chmod(0o700)
            for folder in (root, root / "sites", root / "pool"):
                if folder.is_dir():
                    try_to_write(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise HyfreeError(
            "store.not-writable",
            f"{root}: cannot hold a store ({reason}); name another folder with --store",
        ) from error
    return root


def _check_above(root: Path) -> None:
    """See that a folder could be made, without making it.

    Raises:
        NotADirectoryError: it would be below a file.
    """
    above = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))


def digest_cache(root: Path) -> Path | None:
    """Return where facts of files are kept; None before the store is made: bad data leave nothing.

    Raises:
        HyfreeError: the store is another version's, or its marker cannot be read.
    """
    check_layout(root)
    return root / "digests.json" if (root / ROOT_FILE).exists() else None


def check_layout(root: Path) -> None:
    """Check that what is in a store is laid out as this version reads it; no store is none.

    Raises:
        HyfreeError: written by another version, or its `store.json` cannot be read.
    """
    marker = root / ROOT_FILE
    try:
        written = json.loads(marker.read_bytes())
        if not isinstance(written, dict):
            raise ValueError("not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HyfreeError(
            "store.not-a-store",
            f"{marker}: not a store's ({reason}); name another store with --store",
        ) from error
    found = written.get("store_version")
    if found != STORE_VERSION:
        raise HyfreeError(
            "store.other-version",
            f"{root}: the store was written by another version (layout {found!r}, this one reads "
            f"{STORE_VERSION}); name a new folder with --store, or use that version",
        )
