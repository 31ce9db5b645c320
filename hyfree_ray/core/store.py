"""The store: where a party keeps what its stages made, addressed by what went into them.

    key = sha256(stage name, stage version, the parameters it reads, keys of its inputs)

The place of the store and the order of the sites are not in a key; neither is any output. So keys
are known before anything runs, a stage that is done is never run again, and whoever asks for the
same thing twice, be it after a crash or in another experiment, gets the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import HyfreeError, PrivacyError
from hyfree_ray.core.files import LOCK_FILE, is_free, replacing, try_to_write

log = logging.getLogger("hyfree_ray")

STORE_VERSION = 1

RAW_DATA = "data"
"""The stage of an artifact that no stage made: a hospital's own raw data set."""

ROOT_FILE = "store.json"
"""At the root of a store, above all parties' folders."""

_LONGEST_NAME = 200
"""Bytes of a part of a file's name in a parcel: file systems take 255."""

RECORD = "record.json"
"""Written last: its presence means that the folder is whole."""


def canonical_json(value: Any) -> str:
    """JSON with one spelling for each value: what keys are hashes of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@functools.cache
def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file's content, read once a process."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that `path` holds either what it held before or the whole of the new text."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_json` for bytes."""
    with replacing(path) as file:
        file.write(content)


def write_once(path: Path, value: Any) -> Any:
    """Write JSON unless the file is there; what it holds, whoever wrote it.

    Of two processes that come at the same time one writes and both read the same.
    """
    with locked(path.parent):
        if not path.exists():
            write_json(path, value)
    return json.loads(path.read_text())


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a stage makes: known by its key before it exists."""

    stage: str
    key: str
    path: Path
    record: Mapping[str, Any] | None = None
    """None while it is only planned."""

    def __truediv__(self, name: str, /) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def result(self) -> Mapping[str, Any]:
        """The numbers that the stage returned."""
        if self.record is None:
            raise AssertionError(f"{self.stage} {self.key[:8]} has not run")
        result: Mapping[str, Any] = self.record["result"]
        return result


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a stage: what it is, what it reads, and nothing about where it runs."""

    stage: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The artifact's address."""
        inputs = {name: artifact.key for name, artifact in self.inputs.items()}
        return digest_of([self.stage, self.version, self.params, inputs])


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """An export on its way from one party to another: named files as bytes, and a key."""

    sender: str
    stage: str
    key: str
    files: Mapping[str, bytes]
    result: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Bytes that cross the border."""
        return sum(len(content) for content in self.files.values())

    @property
    def sha256(self) -> str:
        """One hash over the names and contents of the files."""
        hashes = {name: hashlib.sha256(self.files[name]).hexdigest() for name in self.files}
        return digest_of(hashes)


class Store:
    """One party's store.

    Args:
        root: the party's own folder.
        owner: its name.
        exports: for each stage whose output may leave, the files that do (relative globs).
    """

    def __init__(self, root: Path, owner: str, exports: Mapping[str, tuple[str, ...]]) -> None:
        self.root = root
        self.owner = owner
        self.exports = dict(exports)

    def folder(self, stage: str, key: str) -> Path:
        """Where a stage's output lies. The name tells the stage; the key's start tells it apart."""
        return self.root / "stages" / f"{stage}-{key[:20]}"

    def find(self, call: Call) -> Artifact:
        """The call's artifact, with its record where the stage is done."""
        return self.find_key(call.stage, call.key)

    def find_key(self, stage: str, key: str) -> Artifact:
        """`find` for a call that is known by its key."""
        path = self.folder(stage, key)
        return Artifact(stage=stage, key=key, path=path, record=read_record(path, key))

    def descendants(self, keys: Collection[str]) -> list[dict[str, Any]]:
        """Records of all that was made, directly or not, from what has one of these keys."""
        files = sorted(self.root.glob(f"stages/*/{RECORD}"))
        records = [json.loads(file.read_text()) for file in files]
        known, found = set(keys), []
        while fresh := [
            record
            for record in records
            if record["key"] not in known and not known.isdisjoint(record["inputs"].values())
        ]:
            known |= {record["key"] for record in fresh}
            found += fresh
        return found

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact for another party.

        Raises:
            PrivacyError: the stage is not one of the owner's exports.
        """
        if artifact.stage not in self.exports:
            allowed = ", ".join(sorted(self.exports)) or "nothing"
            raise PrivacyError(
                "privacy.not-exported",
                f"{self.owner}: '{artifact.stage}' may not leave; this party exports {allowed}",
            )
        files = {
            str(file.relative_to(artifact.path)): file.read_bytes()
            for pattern in self.exports[artifact.stage]
            for file in sorted(artifact.path.glob(pattern))
            if not file.name.startswith(".")  # what a crash left half-written
        }
        return Parcel(
            sender=self.owner,
            stage=artifact.stage,
            key=artifact.key,
            files=files,
            result=dict(artifact.result),
        )

    def received(self, stage: str, key: str, sender: str) -> Artifact:
        """Where a parcel lies once it was taken in (its record is None before)."""
        path = self.root / "received" / sender / f"{stage}-{key[:20]}"
        return Artifact(stage=stage, key=key, path=path, record=read_record(path, key))

    def received_keys(self, stage: str, sender: str) -> set[str]:
        """Return the keys of all that was taken in of a sender's."""
        records = self.root.glob(f"received/{glob.escape(sender)}/{stage}-*/{RECORD}")
        return {json.loads(file.read_text())["key"] for file in records}

    def receive(self, parcel: Parcel) -> Artifact:
        """Take a parcel in. The same parcel twice is one.

        Raises:
            PrivacyError: names that would leave the folder they are put into, or other content
                than was received under the same key.
        """
        check_parcel(parcel)
        artifact = self.received(parcel.stage, parcel.key, parcel.sender)
        if artifact.record is not None:
            if artifact.record["sha256"] != parcel.sha256:
                raise PrivacyError(
                    "parcel.contradicts",
                    f"{parcel.sender}: refused a second {parcel.stage} with other content under "
                    "the same key; the first is kept",
                )
            return artifact
        with locked(artifact.path):
            for name, content in parcel.files.items():
                target = artifact.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, content)
            record = {
                "stage": parcel.stage,
                "key": parcel.key,
                "owner": parcel.sender,
                "sha256": parcel.sha256,
                "bytes": parcel.bytes,
                "result": dict(parcel.result),
            }
            write_json(artifact.path / RECORD, record)
        return self.received(parcel.stage, parcel.key, parcel.sender)


def check_parcel(parcel: Parcel) -> None:
    """Refuse names that are not those of a party, a stage, a key and files below a folder.

    A file's name is spelt as its path is, none is hidden, ours, or a folder of another.

    Raises:
        PrivacyError: a name that is not.
    """
    sender = parcel.sender
    named = sender not in {"", ".", ".."} and not set(sender) & set("/\\\0")
    short = all(
        len(part.encode(errors="replace")) <= _LONGEST_NAME
        for name in (sender, parcel.stage, *parcel.files)
        for part in Path(name).parts
    ) and all(len(name) <= 4 * _LONGEST_NAME for name in parcel.files)
    keyed = re.fullmatch("[0-9a-f]{64}", parcel.key) is not None
    inside = all(
        all(part and not part.startswith(".") and "\0" not in part for part in name.split("/"))
        and name.split("/")[0] != RECORD
        and not any(other.startswith(f"{name}/") for other in parcel.files)
        for name in parcel.files
    )
    if not (named and keyed and inside and short and parcel.stage.isidentifier()):
        raise PrivacyError(
            "parcel.bad-name", f"{sender[:40]!a}: refused a parcel with a name outside of it"
        )


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished stage, or None where the folder is missing or unfinished."""
    try:
        record: dict[str, Any] = json.loads((path / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # the file system lost the end of it: the stage runs again
    return record if record.get("key") == key else None


@contextlib.contextmanager
def locked(folder: Path, *, patience_s: float = 0.2) -> Iterator[None]:
    """Hold a folder for one process. The lock dies with the process that holds it.

    It is a POSIX record lock: children that a library forks do not inherit it, so that orphans of
    a killed process do not keep it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        begun, told = time.monotonic(), False
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if not told and time.monotonic() - begun > 5:
                    log.info("another process works on %s; waiting for it", folder.name)
                    told = True
                time.sleep(patience_s)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


def open_root(root: Path, *, create: bool = True) -> Path:
    """Check that the store's root is one that this version can read; create it if it is missing.

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
                    f"{root}: the folder is not empty and not a store; name another by --store",
                )
            if not create:
                _check_above(root)
                return root
            root.mkdir(parents=True, exist_ok=True)
            write_json(marker, {"store_version": STORE_VERSION})
        check_layout(root)
        if create:
            for folder in (root, root / "sites", root / "pool"):
                if folder.is_dir():
                    try_to_write(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise HyfreeError(
            "store.not-writable", f"{root}: cannot keep a store here ({reason}); see --store"
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
        told = json.loads(marker.read_bytes())
        if not isinstance(told, dict):
            raise ValueError("not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HyfreeError(
            "store.not-a-store",
            f"{marker}: is not what a store has ({reason}); name another store by --store",
        ) from error
    found = told.get("store_version")
    if found != STORE_VERSION:
        raise HyfreeError(
            "store.other-version",
            f"{root}: the store was written by another version (layout {found!r}, this one reads "
            f"{STORE_VERSION}); name a new folder by --store or use that version",
        )


def remove_tree(path: Path) -> None:
    """Remove a folder of intermediate files if it is there."""
    shutil.rmtree(path, ignore_errors=True)
