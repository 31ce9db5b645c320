"""Keep a record of what is whole: of a stage that ended, of a parcel that was taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from hyfree_ray.core.files import write_json

RECORD = "record.json"
"""Written last: its presence means that the folder is whole."""


class ParcelRecord(BaseModel):
    """What was noted of a parcel that another party sent."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    owner: str
    """Who sent it."""
    sha256: str
    bytes: int
    result: dict[str, Any]


class StageRecord(BaseModel):
    """What was noted of a stage that ended."""

    model_config = ConfigDict(frozen=True)

    stage: str
    version: int
    key: str
    owner: str
    params: dict[str, Any]
    """Those that name cases or patients as their hash."""
    inputs: dict[str, str]
    """Keys of what it read."""
    earlier: list[tuple[float, float]] = []
    """When attempts without an end began and gave their last sign of life, seconds since 1970."""
    started: float
    ended: float
    seconds: float
    """Of all attempts."""
    device: str
    device_seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    device_memory_mib: float | None = None
    """The most that torch reserved; None where it computed on no GPU."""
    device_total_mib: float | None = None
    host: str
    versions: dict[str, str]
    """Of the libraries that results may depend on."""
    outputs: str | None = None
    """Hash of the list of the files' hashes; None in records of before there was one."""
    result: dict[str, Any]
    """What the stage returned."""


R = TypeVar("R", StageRecord, ParcelRecord)


def write_record(folder: Path, record: StageRecord | ParcelRecord) -> None:
    """Write a folder's record: from now on it is whole."""
    write_json(folder / RECORD, record.model_dump(exclude_unset=True))


def load_record(folder: Path, kind: type[R]) -> R:
    """Load the record of a folder that has one.

    Raises:
        OSError: it has none.
        ValueError: it is broken, or of another form.
    """
    return kind.model_validate_json((folder / RECORD).read_bytes())


def find_record(folder: Path, key: str, kind: type[R]) -> R | None:
    """Load the record of a folder; None where it is missing, unfinished or another key's."""
    try:
        record = load_record(folder, kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # the file system lost the end of it: the stage runs again
    return record if record.key == key else None
