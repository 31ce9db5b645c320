"""Parcels as folders: what crosses between real parties travels by any means that moves files."""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.errors import HyfreeError
from hyfree_ray.files import UntrustedFileError, read_untrusted
from hyfree_ray.store import Parcel, check_parcel, write_bytes, write_json
from hyfree_ray.strict_json import StrictObject

PARCEL_FILE = "parcel.json"
"""Written last: sender, stage, key, result, and the names of the other files."""

_KEYS = ("sender", "stage", "key", "result", "files")
_MOST_JSON = 4 << 20
_MOST_BYTES = 64 << 30
_MOST_FILES = 100


def write_parcel(folder: Path, parcel: Parcel) -> None:
    """Write a parcel into a folder of its own; the same sender's older one is replaced.

    Raises:
        HyfreeError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        before = read_parcel(folder) if (folder / PARCEL_FILE).is_file() else None
        if before is None or (before.sender, before.stage) != (parcel.sender, parcel.stage):
            raise HyfreeError(f"{folder}: is there already; name a new or an empty folder by --out")
        (folder / PARCEL_FILE).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parcel.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)
    described = {name: getattr(parcel, name) for name in _KEYS} | {"files": sorted(parcel.files)}
    write_json(folder / PARCEL_FILE, described)


def read_parcel(folder: Path) -> Parcel:
    """Read a folder that somebody else has written. What is in the files is not looked at.

    Raises:
        HyfreeError: no parcel, an incomplete one, or one whose names would leave the folder.
    """
    try:
        text = bytes(read_untrusted(folder / PARCEL_FILE, most=_MOST_JSON)).decode()
        described = StrictObject.parse(text, _KEYS)
        names = described.names("files")
        if len(names) > _MOST_FILES:
            raise ValueError(f"{len(names)} files, over {_MOST_FILES}")
        parcel = Parcel(
            sender=described.name("sender"),
            stage=described.name("stage"),
            key=described.digest("key"),
            files=dict.fromkeys(names, b""),
            result=described.free("result"),
        )
        check_parcel(parcel)
        files = {name: bytes(read_untrusted(folder / name, most=_MOST_BYTES)) for name in names}
    except (UntrustedFileError, ValueError) as error:
        raise HyfreeError(
            f"{folder}: not a whole parcel ({error}); copy the sender's folder again, all of it"
        ) from error
    return Parcel(**{**vars(parcel), "files": files})
