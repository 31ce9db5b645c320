"""A party's own folder beside the outputs of its stages, and the access to it.

A program works on its `Workspace`; a dry run gives it a `DryWorkspace`, which is read and never
written. So no program asks which of the two it has.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.border.signing import signing_key
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.documents import Documents, DryDocuments
from hyfree_ray.core.files import remove_tree, write_json
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.store import Store
from hyfree_ray.federation.quarantine import quarantine
from hyfree_ray.federation.trust import Trust, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


Exports = Mapping[str, tuple[str, ...]]
"""Stages whose outputs may leave a party, with the files that may (relative globs)."""


class Workspace:
    """A party's own folder.

    Args:
        root: the folder.
        owner: the party's name.
        exports: stages whose outputs may leave, with the files that may.
    """

    def __init__(self, root: Path, owner: str, exports: Exports) -> None:
        self.root = root
        self.store = Store(root, owner, exports)
        self.documents = Documents(root)
        self.trusted = Trust(root)

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact for another party.

        Raises:
            PrivacyError: the stage is not one of the party's exports.
        """
        return self.store.export(artifact)

    def receive(self, parcel: Parcel) -> Artifact:
        """Take another party's parcel in. Receiving it twice has the effect of once.

        Raises:
            PrivacyError: as `Store.receive`.
        """
        return self.store.receive(parcel)

    def discard(self, received: Artifact) -> None:
        """Remove a received artifact."""
        remove_tree(received.path)

    def sign(self, parcel: Parcel, statement: str) -> Parcel:
        """Return the parcel with the party's signature over one of its files."""
        return sign(parcel, statement, self._key())

    def public_key(self) -> bytes:
        """Return the key by which others verify the party's signatures."""
        return self._key().public_key().public_bytes_raw()

    def _key(self) -> Ed25519PrivateKey:
        return signing_key(self.root / "keys" / "signing.key")

    def trust(self, site: str, public_key: bytes) -> None:
        """Store this key as the site's, replacing any that it had."""
        self.trusted.learn(site, public_key)

    def check_signature(self, site: str, parcel: Parcel, stage: str = "release") -> None:
        """Refuse files that this site has not signed, or more files than it has signed.

        Args:
            site: who submitted them.
            parcel: the files.
            stage: what they have to be.

        Raises:
            ReleaseError: rule `site`, `parcel` or `signature`.
        """
        self.trusted.check(site, parcel, stage)

    def quarantine(self, site: str, parcel: Parcel, reason: str) -> None:
        """Store a parcel that was refused apart from everything in use."""
        quarantine(self.root, site, parcel, reason)

    def show_staff(self, made: Artifact, names: Mapping[int, str], data_key: str) -> None:
        """Put pictures and cases' names where the party's own staff look: only they may see them.

        Args:
            made: a stage's output, whose pictures are copied to `audit/`.
            names: the cases' names by the index that pictures show.
            data_key: key of the data set of these names.
        """
        folder = self.root / "audit"
        folder.mkdir(exist_ok=True)
        for picture in sorted(made.path.glob("*.png")):
            shutil.copyfile(picture, folder / f"{picture.stem}-{made.key[:8]}.png")
        write_json(folder / f"cases-{data_key[:8]}.json", dict(names))


class DryWorkspace(Workspace):
    """A workspace that is read and never written: a missing artifact is empty."""

    def __init__(self, root: Path, owner: str, exports: Exports) -> None:
        super().__init__(root, owner, exports)
        self.documents = DryDocuments(root)

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact, an empty one if it is not made yet."""
        if artifact.record is not None:
            return super().export(artifact)
        sender = self.store.owner
        return Parcel(sender=sender, stage=artifact.stage, key=artifact.key, files={}, result={})

    def receive(self, parcel: Parcel) -> Artifact:
        """Return the parcel's location in the store."""
        return self.store.received(parcel.stage, parcel.key, parcel.sender)

    def discard(self, received: Artifact) -> None:
        """Do nothing."""

    def sign(self, parcel: Parcel, statement: str) -> Parcel:  # noqa: ARG002
        """Return the parcel as it is: signing might have to create a key."""
        return parcel

    def public_key(self) -> bytes:
        """Return no key."""
        return b""

    def trust(self, site: str, public_key: bytes) -> None:
        """Do nothing."""

    def check_signature(self, site: str, parcel: Parcel, stage: str = "release") -> None:
        """Accept: submissions of a dry run have no signature."""

    def quarantine(self, site: str, parcel: Parcel, reason: str) -> None:
        """Do nothing."""

    def show_staff(self, made: Artifact, names: Mapping[int, str], data_key: str) -> None:
        """Do nothing."""
