"""Parcels that the pool refused, stored apart from everything in use, for a person to inspect.

quarantine/
  SITE-HASH/           those of a release's files that were read, as they came in; HASH is of these
    reason.txt         why it was refused, in one line

Images without a valid signature, or of another size than was signed for, are not read from files.

Anybody can submit anything: the newest are retained, up to a number and a size.
"""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.border.public_labels import LABEL_FILES
from hyfree_ray.core.files import remove_tree, write_bytes
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.trust import SUBMISSION_FILES

FOLDER = "quarantine"
"""In the pool's own folder."""

REASON_FILE = "reason.txt"

MAX_PARCELS = 50
MAX_BYTES = 2 << 30


def quarantine(root: Path, site: str, parcel: Parcel, reason: str) -> None:
    """Store a parcel that was refused. Submitted again, it is stored once.

    Args:
        root: the pool's own folder.
        site: who submitted it, as the pool knows it.
        parcel: the submission; only files with the names of a release's, or of labels, are stored.
        reason: one line.
    """
    folder = root / FOLDER / f"{site}-{parcel.sha256[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    if parcel.bytes <= MAX_BYTES:
        for name in sorted(parcel.files.keys() & LABEL_FILES.union(*SUBMISSION_FILES)):
            write_bytes(folder / name, parcel.files[name])
    write_bytes(folder / REASON_FILE, f"{reason}\n".encode())
    _forget_the_oldest(folder.parent)


def _forget_the_oldest(quarantined: Path) -> None:
    newest_first = sorted(quarantined.iterdir(), key=lambda f: f.stat().st_mtime_ns, reverse=True)
    held = 0
    for count, folder in enumerate(newest_first, start=1):
        held += sum(file.stat().st_size for file in folder.iterdir())
        if count > 1 and (count > MAX_PARCELS or held > MAX_BYTES):
            remove_tree(folder)
