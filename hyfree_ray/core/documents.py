"""Small JSON files below a folder, each replaced whole: what a program remembers between runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from hyfree_ray.core.files import locked, write_json


class Documents:
    """JSON documents by their relative path, e.g. `rounds/0f3a/1.json`.

    Args:
        root: the folder that they lie below.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> Any:
        """Return a document; None where there is none."""
        try:
            return json.loads((self.root / name).read_text())
        except FileNotFoundError:
            return None

    def write(self, name: str, value: Any) -> None:
        """Write a document, in the place of any before it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    def names(self, pattern: str) -> list[str]:
        """Return the names of the documents that match a glob, sorted."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Hold the documents of a folder for one process, to read and then write them."""
        with locked(self.root / folder):
            yield


class DryDocuments(Documents):
    """Documents of a dry run: those on disk are read, what is written is kept in memory alone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._written: dict[str, Any] = {}

    def read(self, name: str) -> Any:
        """Return a document as it would be by now."""
        return self._written[name] if name in self._written else super().read(name)

    def write(self, name: str, value: Any) -> None:
        """Keep a document in memory."""
        self._written[name] = value

    def names(self, pattern: str) -> list[str]:
        """Return the names that match, written or only kept."""
        kept = {name for name in self._written if PurePosixPath(name).match(pattern)}
        return sorted(kept | set(super().names(pattern)))

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:  # noqa: ARG002
        """Hold nothing: nobody else sees what is written."""
        yield
