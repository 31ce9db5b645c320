"""Releases on their way down, as folders: what the centre hands out for replay, and how it is read.

releases/
  releases.json        written last: whose they are, and of which general model
  SITE/                the release as a parcel of the pool's
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyfree_ray.border.manifest import MANIFEST_FILE, parse_manifest
from hyfree_ray.border.release import RELEASE_FILE
from hyfree_ray.border.release_guard import SubmittedRelease, check_releases
from hyfree_ray.cohorts.tables import check_site_names
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.files import try_to_write, write_json, writing_to
from hyfree_ray.core.folders import UNFINISHED, check_free, refilling
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.strict_json import StrictObject, checked_name
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted
from hyfree_ray.federation.handout import Handout, described
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.parcel_folders import read_parcel, write_parcel
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.stages.pooling import read_for_task

RELEASES = "releases"
"""The folder's name beside a general model."""

LIST_FILE = "releases.json"

_MAX_JSON_BYTES = 1 << 20


def check_shared_out(folder: Path) -> list[str]:
    """Check that releases can be written to a folder, also before there are any.

    Returns:
        All files in it, of an older general model.

    Raises:
        HyfreeError: the folder holds something else, or cannot be written to.
    """
    if _is_ours(folder):
        with writing_to(folder):
            try_to_write(folder)
    else:
        check_free(folder)
    there = [path.relative_to(folder) for path in folder.rglob("*")]
    return [str(path) for path in there if path.parts[0] != UNFINISHED]


def _is_ours(folder: Path) -> bool:
    """Return whether releases were written there, or were about to be."""
    return (folder / LIST_FILE).is_file() or (folder / UNFINISHED).is_dir()


def write_shared(folder: Path, shared: ReplaySet, general: Parcel) -> None:
    """Write releases that may be replayed, replacing those of an older general model.

    Args:
        folder: a folder for these releases alone.
        shared: the releases.
        general: the model that was trained on them.

    Raises:
        HyfreeError: the folder holds something else, or cannot be written to.
    """
    older = check_shared_out(folder)
    with writing_to(folder), refilling(folder, LIST_FILE, older) as fresh:
        for site, parcel in zip(shared.sites, shared.parcels, strict=True):
            write_parcel(fresh / site, parcel)
        listed = {s: described(p) for s, p in zip(shared.sites, shared.parcels, strict=True)}
        write_json(fresh / LIST_FILE, {"general": general.key, "releases": listed})


def remove_shared(folder: Path) -> None:
    """Remove the releases of an older general model, if any, and nothing else."""
    if _is_ours(folder):
        with writing_to(folder), refilling(folder, LIST_FILE, check_shared_out(folder)):
            pass
    with suppress(OSError):
        folder.rmdir()  # where it is there, and holds nothing


def read_shared(
    folder: Path, general: Parcel, party: SiteParty, handout: Handout | None = None
) -> ReplaySet:
    """Read shared releases, for a site that trusts neither the pool nor the transport.

    The site's own release is left where it is. Another one is taken as the pool takes it: a process
    of its own reads it first, then its hashes, task and privacy card are checked here.

    Args:
        folder: the folder that `write_shared` wrote elsewhere.
        general: the model to fine-tune.
        party: the site.
        handout: the pool's signed word on what they are; None: the site has no key of the pool's.

    Raises:
        ReleaseError: the rule that a release breaks.
        HyfreeError: no such folder, an incomplete one, or one of another general model.
    """
    listed = _read_list(folder, general)
    if handout is not None:
        handout.check_releases(folder, listed)
    try:
        check_site_names({party.name, *listed})
    except HyfreeError as error:
        raise _torn(folder, str(error)) from error
    others = sorted(set(listed) - {party.name})
    parcels = [_read_one(folder, site, listed[site]) for site in others]
    _check(folder, others, parcels, party)
    return ReplaySet(sites=tuple(others), parcels=tuple(parcels))


def _read_list(folder: Path, general: Parcel) -> dict[str, Any]:
    """Return, by site, the description of the parcel (see `described`)."""
    try:
        text = bytes(read_untrusted(folder / LIST_FILE, most=_MAX_JSON_BYTES)).decode()
        read = StrictObject.parse(text, ("general", "releases"))
        key, listed = read.digest("general"), read.free("releases")
        for site in listed:
            checked_name("releases", site)
    except (UntrustedFileError, ValueError) as error:
        raise _torn(folder, str(error)) from error
    if key != general.key:
        raise HyfreeError(
            "parcel.other-model",
            f"{folder}: belongs to another general model ({key[:8]}, not {general.key[:8]}); "
            "copy both from the same 'pool train'",
        )
    return listed


def _read_one(folder: Path, site: str, expected: Any) -> Parcel:
    parcel = read_parcel(folder / site, below=folder)
    if described(parcel) != expected or (parcel.sender, parcel.stage) != (POOL, "release"):
        raise ReleaseError(
            site, "sha256", f"{folder / site} is not what the pool wrote; copy it again"
        )
    return parcel


def _check(folder: Path, sites: Sequence[str], parcels: Sequence[Parcel], party: SiteParty) -> None:
    """Check as `check_release` does at the pool; nothing enters the site's store before.

    Raises:
        ReleaseError: the rule that the first bad one breaks.
    """
    submitted = [
        SubmittedRelease(
            folder=folder / site,
            site=site,
            experiment=party.federation,
            manifest=parse_manifest(parcel.files.get(MANIFEST_FILE, b""), site=site),
        )
        for site, parcel in zip(sites, parcels, strict=True)
    ]
    for checked in check_releases(submitted):
        if isinstance(checked, ReleaseError):
            raise checked
    for one, parcel in zip(submitted, parcels, strict=True):
        found = read_for_task(one, party.site.dataset, party.experiment.gate)
        file = parcel.files.get(RELEASE_FILE, b"")
        if hashlib.sha256(file).hexdigest() != found.manifest.sha256:
            raise ReleaseError(one.site, "sha256", "the file changed while it was being read")


def _torn(folder: Path, reason: str) -> HyfreeError:
    return HyfreeError(
        "parcel.damaged",
        f"{folder}: not a pool's folder of releases ({reason}); copy the whole folder again",
    )
