"""`hyfree-ray pool`: the centre's program on files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyfree_ray.commands.options import DEVICE, EXIT_CODES, STORE, experiment_options
from hyfree_ray.commands.site import PUBLIC_KEY_FILE
from hyfree_ray.errors import HyfreeError, ReleaseError

if TYPE_CHECKING:
    from hyfree_ray.pool import PoolParty
    from hyfree_ray.site_value import Shared
    from hyfree_ray.store import Parcel


@click.group(epilog=EXIT_CODES)
def pool() -> None:
    """The centre's part: from hospitals' releases to the general model.

    \b
    Example:
      hyfree-ray pool train releases/* --out general
    """


@pool.command(epilog=EXIT_CODES)
@click.argument("releases", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the general model."
)
@experiment_options
@STORE
@DEVICE
def train(releases: tuple[Path, ...], out: Path, store: Path, device: str, **settings: Any) -> None:
    """Check releases as hostile input and train the general model on those that are good.

    The task is that of the first good release. A hospital's key is taken as its own the first
    time; compare the printed fingerprint with the hospital's. Another key later is refused.

    OUT/releases holds the good releases, for hospitals to replay while they fine-tune.
    """
    from hyfree_ray.parcel_files import read_parcel, write_parcel
    from hyfree_ray.shared_files import RELEASES, write_shared
    from hyfree_ray.store import open_root

    parcels = [read_parcel(folder) for folder in sorted(releases)]
    _check_senders(parcels)
    party = _open_pool(sorted(releases), parcels, open_root(store.absolute()), device, settings)
    members = asyncio.run(_take_in(party, sorted(releases), parcels))
    if not members:
        raise HyfreeError("fewer than two good releases make no general model; nothing is written")
    general, shared = asyncio.run(_hand_out(party, members))
    write_parcel(out, general)
    click.echo(f"general model of {', '.join(members)} written to {out}")
    if shared is not None:
        write_shared(out / RELEASES, shared, general)
        click.echo(f"for replay: {', '.join(shared.sites) or 'none'}, in {out / RELEASES}")


async def _hand_out(party: PoolParty, members: Mapping[str, str]) -> tuple[Parcel, Shared | None]:
    """The general model and, where sites are to personalise it, the releases for replay."""
    general = await party.general(members)
    if "personalised" not in party.experiment.settings:
        return general, None
    shared = await party.share_for_replay(members)
    for site, dice in (await party.agreement(members)).items():
        left_out = "" if site in shared.sites else "; not for replay"
        click.echo(f"{site}: its labels agree with the others' (Dice {dice:.2f}){left_out}")
    return general, shared


def _check_senders(parcels: Sequence[Parcel]) -> None:
    from hyfree_ray.cohort_tables import check_site_names

    names = [parcel.sender for parcel in parcels]
    check_site_names(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HyfreeError(f"{twice[0]}: two releases of one site; name the one that is meant")


def _open_pool(
    folders: Sequence[Path],
    parcels: Sequence[Parcel],
    store: Path,
    device: str,
    settings: dict[str, Any],
) -> PoolParty:
    from hyfree_ray.config import find_device, resolve_experiment
    from hyfree_ray.log import set_up_logging
    from hyfree_ray.pool import PoolParty
    from hyfree_ray.runners.local import LocalRunner
    from hyfree_ray.scores import POOL
    from hyfree_ray.store import digest_of

    set_up_logging("text")
    device = find_device() if device == "auto" else device
    experiment, _ = resolve_experiment(
        device=device,
        file=settings.pop("config"),
        overrides=settings.pop("overrides"),
        **settings,
    )
    federation, dataset = _task(folders)
    # Each set of releases is a round of its own: more releases later are another model.
    keys = {parcel.sender: parcel.key for parcel in parcels}
    key = digest_of([experiment.key(federation, keys), "files"])
    return PoolParty(key, federation, dataset, experiment, store / POOL, LocalRunner(device))


def _task(folders: Sequence[Path]) -> tuple[str, Mapping[str, Any]]:
    """Federation, channels and labels: those of the first release that is one."""
    from hyfree_ray.commands.release import read_checked
    from hyfree_ray.release import RELEASE_FILE
    from hyfree_ray.stages.pooling import painted_in

    for folder in folders:
        if (folder / RELEASE_FILE).is_file():
            try:
                release = read_checked(folder)
            except ReleaseError:
                continue  # it will be refused by name
            channels = {str(i): name for i, name in enumerate(release.metadata.channel_names)}
            labels = painted_in(release.metadata).dataset()
            return release.manifest.experiment, {"channel_names": channels, **labels}
    raise HyfreeError("none of these folders holds a good release; see 'hyfree-ray release check'")


async def _take_in(
    party: PoolParty, folders: Sequence[Path], parcels: Sequence[Parcel]
) -> dict[str, str]:
    for folder, parcel in zip(folders, parcels, strict=True):
        fingerprint = _trust(party, parcel)
        outcome = await party.take(parcel.sender, _without_key(parcel))
        words = {
            "released": f"taken: {outcome['images']} images, key {fingerprint}",
            "withheld": f"withheld: {outcome['reason']}",
            "refused": f"{outcome['reason']}{_other_structures(folder, parcel, outcome, party)}",
        }[outcome["outcome"]]
        click.echo(f"{parcel.sender}: {words}")
    releases: dict[str, str] = party.close([parcel.sender for parcel in parcels])["releases"]
    return releases


def _other_structures(
    folder: Path, parcel: Parcel, outcome: Mapping[str, Any], party: PoolParty
) -> str:
    """What a release for another task labels otherwise; empty where it was refused for else."""
    from hyfree_ray.commands.release import read_checked
    from hyfree_ray.label_sets import Painted
    from hyfree_ray.stages.pooling import painted_in

    # Only what this site has signed is read any further.
    reason = str(outcome["reason"])
    if not reason.startswith(str(ReleaseError(parcel.sender, "experiment", ""))):
        return ""
    try:
        metadata = read_checked(folder).metadata
    except ReleaseError:
        return ""
    differences = Painted.of(party.dataset).differences(painted_in(metadata))
    return f"; it {differences}" if differences else ""


def _without_key(parcel: Parcel) -> Parcel:
    """As it was signed and as it crosses in a simulation."""
    from dataclasses import replace

    files = {name: c for name, c in parcel.files.items() if name != PUBLIC_KEY_FILE}
    return replace(parcel, files=files)


def _trust(party: PoolParty, parcel: Parcel) -> str:
    """Take a site's key as its own the first time. Returns its fingerprint.

    Raises:
        HyfreeError: the site had another key before.
    """
    key = parcel.files.get(PUBLIC_KEY_FILE, b"")
    known = party.store.root / "trusted" / parcel.sender
    if known.is_file() and known.read_bytes() != key:
        raise HyfreeError(
            f"{parcel.sender}: its key is not the one it had; ask the hospital, and only if it "
            f"has a new key remove {known}"
        )
    party.trust(parcel.sender, key)
    return hashlib.sha256(key).hexdigest()[:16]
