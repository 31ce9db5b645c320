"""What the pool refused, kept apart from all that is used, for somebody to look at.

quarantine/
  SITE-HASH/           those of a release's files that were read, as they came in; HASH is of these
    reason.txt         why it was refused, in one line

The images of who has not signed, or of another size than was signed for, are not read from files.

Anybody can hand in anything: the newest are kept, so many and of so many bytes.
"""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.core.files import remove_tree, write_bytes
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.trust import HANDED_IN

FOLDER = "quarantine"
"""In the pool's own folder."""

REASON_FILE = "reason.txt"

MOST_KEPT = 50
MOST_BYTES = 2 << 30


def quarantine(root: Path, site: str, parcel: Parcel, reason: str) -> None:
    """Keep a parcel that was refused. Handed in again, it is one.

    Args:
        root: the pool's own folder.
        site: who handed it in, as the pool knows it.
        parcel: what was handed in; of its files only those with the names of a release's.
        reason: one line.
    """
    folder = root / FOLDER / f"{site}-{parcel.sha256[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    if parcel.bytes <= MOST_BYTES:
        for name in sorted(parcel.files.keys() & frozenset().union(*HANDED_IN)):
            write_bytes(folder / name, parcel.files[name])
    write_bytes(folder / REASON_FILE, f"{reason}\n".encode())
    _forget_the_oldest(folder.parent)


def _forget_the_oldest(quarantined: Path) -> None:
    newest_first = sorted(quarantined.iterdir(), key=lambda f: f.stat().st_mtime_ns, reverse=True)
    held = 0
    for count, folder in enumerate(newest_first, start=1):
        held += sum(file.stat().st_size for file in folder.iterdir())
        if count > 1 and (count > MOST_KEPT or held > MOST_BYTES):
            remove_tree(folder)
