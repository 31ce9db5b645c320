"""Keep what a party's stages made, and give out what may leave.

A stage writes into its own folder and never into its inputs. Its record comes last: its presence
means that the folder is whole.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from hyfree_ray.core.artifacts import Artifact, Call
from hyfree_ray.core.errors import HyfreeError, PrivacyError
from hyfree_ray.core.files import locked, write_bytes
from hyfree_ray.core.parcels import Parcel, check_parcel
from hyfree_ray.core.records import (
    RECORD,
    ParcelRecord,
    StageRecord,
    find_record,
    load_record,
    write_record,
)
from hyfree_ray.core.sealing import sums_of


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
        """Return where a stage's output lies; the start of its key tells it from others."""
        return self.root / "stages" / f"{stage}-{key[:20]}"

    def find(self, call: Call) -> Artifact:
        """Return the call's artifact, with its record where the stage is done."""
        return self.find_key(call.stage, call.key)

    def find_key(self, stage: str, key: str) -> Artifact:
        """Find the artifact of a call that is known by its key."""
        path = self.folder(stage, key)
        return Artifact(stage=stage, key=key, path=path, record=find_record(path, key, StageRecord))

    def records(self, stage: str) -> list[StageRecord]:
        """Read the records of a stage's finished calls, in the order in which they ended."""
        files = self.root.glob(f"stages/{glob.escape(stage)}-*/{RECORD}")
        found = [load_record(file.parent, StageRecord) for file in files]
        return sorted((one for one in found if one.stage == stage), key=lambda one: one.ended)

    def descendants(self, keys: Collection[str]) -> list[StageRecord]:
        """Read the records of all that was made, in any number of steps, from these keys."""
        files = sorted(self.root.glob(f"stages/*/{RECORD}"))
        records = [load_record(file.parent, StageRecord) for file in files]
        known, found = set(keys), []
        while fresh := [
            record
            for record in records
            if record.key not in known and not known.isdisjoint(record.inputs.values())
        ]:
            known |= {record.key for record in fresh}
            found += fresh
        return found

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact for another party.

        Raises:
            PrivacyError: the stage is not one of the owner's exports.
            HyfreeError: a file is not the one that the stage made.
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
        self._check_unchanged(artifact, files)
        return Parcel(
            sender=self.owner,
            stage=artifact.stage,
            key=artifact.key,
            files=files,
            result=dict(artifact.result),
        )

    def _check_unchanged(self, artifact: Artifact, files: Mapping[str, bytes]) -> None:
        """Hold files to the hashes that were taken when the stage ended.

        Raises:
            HyfreeError: one is another, or was added.
        """
        record = artifact.record
        if not isinstance(record, StageRecord) or record.outputs is None:
            return
        try:
            known = sums_of(artifact.path, record.outputs)
            changed = [
                name
                for name, content in files.items()
                if known.get(name) != hashlib.sha256(content).hexdigest()
            ]
        except ValueError:
            changed = ["its list of hashes"]
        if changed:
            raise HyfreeError(
                "store.changed",
                f"{self.owner}: {artifact.stage}: {', '.join(changed)} changed after the stage "
                f"ended, and nothing of it leaves; delete {artifact.path} to make it again",
            )

    def received(self, stage: str, key: str, sender: str) -> Artifact:
        """Find a parcel that was taken in (its record is None before)."""
        path = self.root / "received" / sender / f"{stage}-{key[:20]}"
        return Artifact(
            stage=stage, key=key, path=path, record=find_record(path, key, ParcelRecord)
        )

    def received_keys(self, stage: str, sender: str) -> set[str]:
        """Return the keys of all that was taken in of a sender's."""
        records = self.root.glob(f"received/{glob.escape(sender)}/{stage}-*/{RECORD}")
        return {load_record(file.parent, ParcelRecord).key for file in records}

    def receive(self, parcel: Parcel) -> Artifact:
        """Take a parcel in. The same parcel twice is one.

        Raises:
            PrivacyError: names that would leave the folder they are put into, or other content
                than was received under the same key.
        """
        check_parcel(parcel)
        artifact = self.received(parcel.stage, parcel.key, parcel.sender)
        if isinstance(artifact.record, ParcelRecord):
            if artifact.record.sha256 != parcel.sha256:
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
            record = ParcelRecord(
                stage=parcel.stage,
                key=parcel.key,
                owner=parcel.sender,
                sha256=parcel.sha256,
                bytes=parcel.bytes,
                result=dict(parcel.result),
            )
            write_record(artifact.path, record)
        return self.received(parcel.stage, parcel.key, parcel.sender)
