"""What the pool hands out, signed: the general model, and the releases that go with it.

A site that has the pool's key refuses a model, or a list of releases, that was exchanged on its way
down, and one that was made for another pool, federation or task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyfree_ray.border.manifest import Addressee, canonical, task_in
from hyfree_ray.border.signing import PUBLIC_KEY_FILE, is_signed_by
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.strict_json import StrictObject
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.trust import HANDOUT_FILE, HANDOUT_SIGNATURE_FILE
from hyfree_ray.federation.workspace import Workspace

VERSION = 1
_KEYS = ("version", "experiment", "pool", "federation", "model", "releases")
_MAX_BYTES = 1 << 20
_OURS = (HANDOUT_FILE, HANDOUT_SIGNATURE_FILE, PUBLIC_KEY_FILE)


def described(parcel: Parcel) -> dict[str, str]:
    """Return what a list of releases says of a parcel."""
    return {"key": parcel.key, "sha256": parcel.sha256}


def _model(general: Parcel) -> dict[str, str]:
    """Return all of a model that a site reads."""
    return described(general) | {"result": digest_of(dict(general.result))}


@dataclass(frozen=True, kw_only=True)
class Handout:
    """The pool's word on what it hands out, once its signature was checked."""

    releases: Mapping[str, Any]
    """By site, the description of its release."""

    def check_releases(self, folder: Path, listed: Mapping[str, Any]) -> None:
        """Refuse a list of releases other than the one that the pool signed with the model.

        Raises:
            HyfreeError: it is another.
        """
        if listed != self.releases:
            raise _refused(folder, "its releases are not those that the pool signed")


def signed_handout(
    workspace: Workspace,
    general: Parcel,
    shared: ReplaySet | None,
    experiment: str,
    addressee: Addressee,
) -> Parcel:
    """Return the general model with the pool's signed word on it, and the pool's key.

    Args:
        workspace: the pool's, with its key.
        general: the model.
        shared: the releases that are handed out with it; None: there are none.
        experiment: key of the experiment: task, recipe and addressee.
        addressee: the names of pool and federation.
    """
    pairs = () if shared is None else zip(shared.sites, shared.parcels, strict=True)
    statement = canonical(
        {
            "version": VERSION,
            "experiment": experiment,
            "pool": addressee.pool,
            "federation": addressee.federation,
            "model": _model(general),
            "releases": {site: described(parcel) for site, parcel in pairs},
        }
    ).encode()
    stated = replace(general, files={**general.files, HANDOUT_FILE: statement})
    signed = workspace.sign(stated, HANDOUT_FILE)
    return replace(signed, files={**signed.files, PUBLIC_KEY_FILE: workspace.public_key()})


def without_statement(handed: Parcel) -> Parcel:
    """Return the general model alone, as it was before it was signed."""
    files = {name: content for name, content in handed.files.items() if name not in _OURS}
    return replace(handed, files=files)


def check_handout(
    handed: Parcel, folder: Path, key: bytes, experiment: str, addressee: Addressee
) -> Handout:
    """Check the general model against the pool's signed word.

    Args:
        handed: the folder's content.
        folder: where it lies.
        key: the pool's public key, got by another way than the model.
        experiment: key of the experiment that the site takes part in.
        addressee: the names of pool and federation, as the site knows them.

    Raises:
        HyfreeError: it is not signed with this key, was changed, or is for somebody else.
    """
    statement, signature = (
        bytes(handed.files.get(name, b"")) for name in (HANDOUT_FILE, HANDOUT_SIGNATURE_FILE)
    )
    if len(statement) > _MAX_BYTES or not is_signed_by(key, statement, signature):
        raise _refused(folder, "it is not signed with --pool-key")
    try:
        read = StrictObject.parse(statement.decode(), _KEYS)
        read.integer("version", least=VERSION, most=VERSION)
        made_for = read.name("experiment")
        whom = Addressee(pool=read.name("pool"), federation=read.name("federation"))
        model, releases = read.free("model"), read.free("releases")
    except ValueError as error:
        raise _refused(folder, f"the pool's statement cannot be read ({error})") from error
    if model != _model(without_statement(handed)):
        raise _refused(folder, "its files are not those that the pool signed")
    if whom != addressee:
        raise _refused(folder, f"it was made for {whom}, not for {addressee}")
    if task_in(made_for) != task_in(experiment):
        raise _refused(folder, "it was made for another task")
    return Handout(releases=releases)


def _refused(folder: Path, reason: str) -> HyfreeError:
    return HyfreeError(
        "model.signature",
        f"{folder}: general model refused: {reason}; copy the pool's whole folder again, and "
        "compare the key with the one that 'pool train' printed",
    )
