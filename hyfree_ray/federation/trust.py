"""The public keys that the pool knows, and the checks of signatures made with them.

Nothing that a site submits is parsed or stored, except in quarantine, before it has passed here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.border.manifest import MANIFEST_FILE, quoted
from hyfree_ray.border.public_labels import (
    LABEL_FILES,
    LABELS_MANIFEST_FILE,
    LABELS_SIGNATURE_FILE,
)
from hyfree_ray.border.release import RELEASE_FILE
from hyfree_ray.border.signing import KEY_BYTES, SIGNATURE_BYTES, SIGNATURE_FILE, is_signed_by
from hyfree_ray.border.withheld import NOTICE_FILE, NOTICE_SIGNATURE_FILE
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.files import write_bytes
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HANDOUT_FILE = "handout.json"
HANDOUT_SIGNATURE_FILE = "handout.sig"

STATEMENTS = {
    HANDOUT_FILE: HANDOUT_SIGNATURE_FILE,
    MANIFEST_FILE: SIGNATURE_FILE,
    NOTICE_FILE: NOTICE_SIGNATURE_FILE,
    LABELS_MANIFEST_FILE: LABELS_SIGNATURE_FILE,
}
"""The files that a party signs, with their signatures: a release's manifest, a notice that a site
withholds, the manifest of labels, or the pool's word on what it hands out. All hold the hashes of
the files that they are about."""

SUBMISSION_FILES = (
    frozenset({RELEASE_FILE, MANIFEST_FILE, SIGNATURE_FILE}),
    frozenset({NOTICE_FILE, NOTICE_SIGNATURE_FILE}),
)
"""The files of a release, and of a notice: exactly these, or the parcel is refused."""

LABELS = "label_public"
"""The stage of a parcel of labels."""

_FILES_OF = {"release": SUBMISSION_FILES, LABELS: (LABEL_FILES,)}
"""The files that parcels of a stage may have."""


def sign(parcel: Parcel, statement: str, key: Ed25519PrivateKey) -> Parcel:
    """Return the parcel with its site's signature over one of its files."""
    signature = key.sign(parcel.files[statement])
    return replace(parcel, files={**parcel.files, STATEMENTS[statement]: signature})


class Trust:
    """The keys in a pool's own folder, one file a site."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "trusted"
        self._believed: dict[str, bytes] = {}

    def key_of(self, site: str) -> bytes | None:
        """Return the site's public key; None if it is not known."""
        if site in self._believed:
            return self._believed[site]
        path = self.folder / site
        return path.read_bytes() if path.is_file() else None

    def sites(self) -> list[str]:
        """Return the names of the sites whose keys are stored."""
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(file.name for file in files if not file.name.startswith("."))

    def believe(self, site: str, public_key: bytes) -> None:
        """Use this key as the site's for as long as this object lives, and store nothing."""
        self._believed[site] = public_key

    def learn(self, site: str, public_key: bytes) -> None:
        """Store this key as the site's, replacing any that it had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / site, public_key)

    def check(self, site: str, parcel: Parcel, stage: str = "release") -> None:
        """Refuse files that this site has not signed, or more files than it has signed.

        Args:
            site: who submitted them, as the pool knows it.
            parcel: the files.
            stage: what they have to be.

        Raises:
            ReleaseError: rule `site`, `parcel` or `signature`.
        """
        key = self.key_of(site)
        if key is None:
            raise ReleaseError(site, "signature", "the pool has no public key of this site")
        check_signed(site, parcel, key, stage)


def check_signed(site: str, parcel: Parcel, key: bytes, stage: str = "release") -> None:
    """Check as `Trust.check` does, with a key that is not stored yet."""
    if parcel.sender != site or parcel.stage != stage:
        raise ReleaseError(site, "site", "another party's parcel was submitted")
    if parcel.files.keys() not in _FILES_OF[stage]:
        found = ", ".join(quoted(name) for name in sorted(parcel.files)[:6]) or "nothing"
        raise ReleaseError(
            site,
            "parcel",
            f"it holds {found}; expected are {', '.join(sorted(_FILES_OF[stage][0]))}",
        )
    (statement,) = parcel.files.keys() & STATEMENTS.keys()
    if not is_signed_by(key, parcel.files[statement], parcel.files[STATEMENTS[statement]]):
        message = f"{statement} is not signed with the key that the pool knows for this site"
        raise ReleaseError(site, "signature", message)


def read_public_key(file: Path, option: str) -> bytes:
    """Read a site's public key.

    Args:
        file: the file that holds it.
        option: the option that named it.

    Raises:
        HyfreeError: it holds none.
    """
    shown = str(file) if str(file).isprintable() else ascii(str(file))
    try:
        content = read_untrusted(file, most=SIGNATURE_BYTES)
    except UntrustedFileError as error:
        raise HyfreeError(
            "option.bad-key",
            f"{option} {shown}: {error}; name a site's public.key",
        ) from error
    if len(content) != KEY_BYTES:
        raise HyfreeError(
            "option.bad-key",
            f"{option} {shown}: {len(content)} bytes, a key has {KEY_BYTES}",
        )
    return content
