"""Pack an export for another party, and refuse parcels whose names lead out of their folder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import PrivacyError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.records import RECORD

_LONGEST_NAME = 200
"""Bytes of a part of a file's name in a parcel: file systems take 255."""


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
        """Count the bytes that cross the border."""
        return sum(len(content) for content in self.files.values())

    @property
    def sha256(self) -> str:
        """Hash the names and contents of the files."""
        hashes = {name: hashlib.sha256(self.files[name]).hexdigest() for name in self.files}
        return digest_of(hashes)


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
    paths = {
        "/".join(parts[:count])
        for parts in (name.split("/") for name in parcel.files)
        for count in range(1, len(parts) + 1)
    }
    # Where a disk knows no case, or one form of Unicode alone, one file would replace another.
    apart = len({unicodedata.normalize("NFKC", path).casefold() for path in paths}) == len(paths)
    if not (named and keyed and inside and short and apart and parcel.stage.isidentifier()):
        raise PrivacyError(
            "parcel.bad-name", f"{sender[:40]!a}: refused a parcel with a name outside of it"
        )
