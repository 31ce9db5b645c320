"""Parcels as folders: real parties may exchange them by any means that moves files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hyfree_ray.border.manifest import MANIFEST_FILE, Limits, parse_manifest
from hyfree_ray.border.release import RELEASE_FILE
from hyfree_ray.border.signing import KEY_BYTES, PUBLIC_KEY_FILE, SIGNATURE_BYTES, SIGNATURE_FILE
from hyfree_ray.border.withheld import NOTICE_FILE, NOTICE_SIGNATURE_FILE
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.files import try_to_write, write_bytes, write_json, writing_to
from hyfree_ray.core.folders import (
    COMING,
    GOING,
    UNFINISHED,
    check_free,
    not_empty_error,
    refilling,
)
from hyfree_ray.core.parcels import Parcel, check_parcel
from hyfree_ray.core.strict_json import StrictObject
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted

PARCEL_FILE = "parcel.json"
"""Written last: sender, stage, key, result, and the names of the other files."""

_KEYS = ("sender", "stage", "key", "result", "files")
_MAX_JSON_BYTES = 4 << 20
_MAX_BYTES = Limits().file_bytes
"""Maximum size of all files of a parcel together."""
MAX_MODEL_BYTES = 1 << 30
"""The same where it is a model: of the weights that a plan may have, with room to spare."""
_MOST_FILES = 100

_SMALL_FILES = {
    MANIFEST_FILE: Limits().manifest_bytes,
    NOTICE_FILE: Limits().manifest_bytes,
    SIGNATURE_FILE: SIGNATURE_BYTES,
    NOTICE_SIGNATURE_FILE: SIGNATURE_BYTES,
    PUBLIC_KEY_FILE: KEY_BYTES,
}
"""The files of a release read before its signature is checked, with their maximum sizes."""


def check_out(folder: Path, sender: str, stage: str) -> set[str]:
    """Check that a folder is free for a parcel, also before there is one.

    Returns:
        The files of the same sender's older parcel, which a newer one replaces.

    Raises:
        HyfreeError: the folder holds something else, or cannot be written to.
    """
    whole = (folder / PARCEL_FILE).is_file()
    if not whole and not (folder / UNFINISHED).is_dir():
        check_free(folder)
        return set()
    before = _described(folder, folder) if whole else None
    if before is not None and (before.sender, before.stage) != (sender, stage):
        raise not_empty_error(folder)
    with writing_to(folder):
        try_to_write(folder)
    found: set[str] = set()
    for place in (folder, folder / COMING, folder / GOING):
        if (place / PARCEL_FILE).is_file():
            found |= {PARCEL_FILE, *_described(place, place).files}
    return found


def write_parcel(folder: Path, parcel: Parcel) -> None:
    """Write a parcel into its own folder; replace the same sender's older one once complete.

    Raises:
        HyfreeError: the folder holds something else, or cannot be written to.
    """
    older = check_out(folder, parcel.sender, parcel.stage)
    with writing_to(folder), refilling(folder, PARCEL_FILE, older) as fresh:
        for name, content in parcel.files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(fresh / name, content)
        described = {name: getattr(parcel, name) for name in _KEYS}
        write_json(fresh / PARCEL_FILE, described | {"files": sorted(parcel.files)})


def read_parcel(folder: Path, below: Path | None = None, most: int = _MAX_BYTES) -> Parcel:
    """Read a folder that somebody else has written, without looking into its files.

    Args:
        folder: the folder. No link in it is followed.
        below: a folder that somebody else has written around it; None: this one is named by us.
        most: bytes of all files together; nothing beyond is read.

    Raises:
        HyfreeError: no parcel, an incomplete one, or one whose names would leave the folder.
    """
    described = _described(folder, below or folder)
    files: dict[str, bytes] = {}
    try:
        for name in described.files:
            left = most - sum(map(len, files.values()))
            files[name] = read_untrusted(folder / name, most=left, below=below or folder)
    except UntrustedFileError as error:
        raise _torn(folder, error) from error
    return replace(described, files=files)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submitted release, of which only the small files were read."""

    folder: Path
    parcel: Parcel
    """With its files' names; files that are not small, or not of a release, are empty."""
    public_key: bytes
    """The key that the folder claims for its site; empty if it claims none."""

    @property
    def small(self) -> Parcel:
        """The parcel with the files read so far."""
        files = {name: c for name, c in self.parcel.files.items() if name in _SMALL_FILES}
        return replace(self.parcel, files=files)

    def whole(self) -> Parcel:
        """Return the parcel with the release's file, once its manifest's signature was checked.

        Raises:
            ReleaseError: there is no such file, or its size differs from the manifest's.
        """
        site, files = self.parcel.sender, self.parcel.files
        if RELEASE_FILE not in files:
            return self.parcel
        manifest = parse_manifest(files[MANIFEST_FILE], site=site)
        max_bytes = Limits().file_bytes
        try:
            file = read_untrusted(
                self.folder / RELEASE_FILE, most=max_bytes, expected=manifest.bytes
            )
        except UntrustedFileError as error:
            raise ReleaseError(site, error.rule, str(error)) from error
        return replace(self.parcel, files={**files, RELEASE_FILE: file})


def read_submission(folder: Path) -> Submission:
    """Read the small files of a release that somebody else has put into a folder.

    Raises:
        HyfreeError: as `read_parcel`.
    """
    described = _described(folder, folder)
    try:
        small = {
            name: read_untrusted(folder / name, most=_SMALL_FILES[name], below=folder)
            for name in described.files
            if name in _SMALL_FILES
        }
    except UntrustedFileError as error:
        raise _torn(folder, error) from error
    public_key = small.pop(PUBLIC_KEY_FILE, b"")
    files = {name: b"" for name in described.files if name != PUBLIC_KEY_FILE} | small
    return Submission(folder=folder, parcel=replace(described, files=files), public_key=public_key)


def _described(folder: Path, below: Path) -> Parcel:
    """Return a parcel with its files' names alone."""
    try:
        file = folder / PARCEL_FILE
        text = read_untrusted(file, most=_MAX_JSON_BYTES, below=below).decode()
        described = StrictObject.parse(text, _KEYS)
        names = described.names("files")
        if len(names) > _MOST_FILES:
            raise ValueError(f"{len(names)} files, more than {_MOST_FILES}")
        parcel = Parcel(
            sender=described.name("sender"),
            stage=described.name("stage"),
            key=described.digest("key"),
            files=dict.fromkeys(names, b""),
            result=described.free("result"),
        )
    except (UntrustedFileError, ValueError) as error:
        raise _torn(folder, error) from error
    check_parcel(parcel)
    return parcel


def _torn(folder: Path, error: ValueError) -> HyfreeError:
    return HyfreeError(
        "parcel.damaged",
        f"{folder}: incomplete or damaged ({error}); copy the sender's whole folder again",
    )
