"""`hyfree-ray pool`: the centre's program on files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyfree_ray.commands.command_group import CommandGroup
from hyfree_ray.commands.options import DEVICE, EXIT_CODES, STORE, experiment_options, resolved
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.evaluation.regimes import GENERAL, replays

if TYPE_CHECKING:
    from hyfree_ray.config.experiment import Experiment
    from hyfree_ray.core.parcels import Parcel
    from hyfree_ray.federation.interface import ReplaySet
    from hyfree_ray.federation.pool import PoolParty


@click.group(cls=CommandGroup, epilog=EXIT_CODES)
def pool() -> None:
    """Run the pool's part: train the general model on the hospitals' releases.

    \b
    Example:
      hyfree-ray pool train releases/* --keys keys --out general
    """


@pool.command(epilog=EXIT_CODES)
@click.argument("releases", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the general model.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of NAME.key files: each hospital's public.key, obtained separately from its "
    "release. Releases of other hospitals are refused.",
)
@click.option(
    "--allow-older",
    is_flag=True,
    help="Take a hospital's older release even where it has handed in a newer one since.",
)
@experiment_options
@STORE
@DEVICE
def train(
    releases: tuple[Path, ...],
    out: Path,
    keys: Path | None,
    allow_older: bool,
    store: Path,
    device: str,
    **settings: Any,
) -> None:
    """Check releases as hostile input, and train the general model on the good ones.

    Signatures are checked first; the task is that of most good, signed releases. Without --keys, a
    hospital's key is trusted on first use: compare its fingerprint with the one that the hospital
    was shown. A release is refused where its hospital has handed in a newer one, or withheld,
    since. A refused release is moved to the store's pool/quarantine (without its images unless it
    is signed), and the others are still used.

    OUT/releases holds the good releases, for hospitals to replay while fine-tuning. Both are
    signed: give OUT/public.key to the hospitals once, by another way than the model.

    \b
    Example:
      hyfree-ray pool train releases/A releases/B --keys keys --budget small --out general
    """
    from hyfree_ray.border.signing import fingerprint
    from hyfree_ray.core.parties import POOL
    from hyfree_ray.core.precision import keep_precision
    from hyfree_ray.core.store_root import open_root
    from hyfree_ray.federation.handout import signed_handout
    from hyfree_ray.federation.intake import (
        check_newest,
        check_signatures,
        open_pool,
        read_submissions,
        take_in,
    )
    from hyfree_ray.federation.parcel_folders import write_parcel
    from hyfree_ray.federation.replay_folders import RELEASES, remove_shared, write_shared
    from hyfree_ray.runners.local import LocalRunner

    store = store.absolute()
    found = resolved(store=store, device=device, **settings)
    _check_out(out, found.experiment)
    root = open_root(store) / POOL
    keep_precision(store, found.measured)
    handed = read_submissions(sorted(releases), click.echo)
    signed = check_signatures(handed, root, keys, click.echo)
    if not allow_older:
        signed = check_newest(signed, root, click.echo)
    runner = LocalRunner(found.device)
    party, described = open_pool(signed, found.experiment, root, runner, click.echo)
    members = asyncio.run(take_in(party, signed, described, click.echo))
    if not members:
        raise HyfreeError(
            "round.too-few-releases",
            "a general model needs at least two good releases; nothing was written",
        )
    general, shared = asyncio.run(_hand_out(party, members))
    addressee = found.experiment.addressee
    write_parcel(out, signed_handout(party.workspace, general, shared, party.federation, addressee))
    click.echo(f"general model of {', '.join(members)} written to {out}")
    key = fingerprint(party.workspace.public_key())
    click.echo(f"signed with the key {key}, for {addressee}; hospitals check it by --pool-key")
    if shared is not None:
        write_shared(out / RELEASES, shared, general)
        click.echo(f"for replay: {', '.join(shared.sites) or 'none'}, in {out / RELEASES}")
    else:
        remove_shared(out / RELEASES)


def _check_out(out: Path, experiment: Experiment) -> None:
    """See that what is to be handed out can be written, before anything is trained."""
    from hyfree_ray.core.parties import POOL
    from hyfree_ray.federation.parcel_folders import check_out
    from hyfree_ray.federation.replay_folders import RELEASES, check_shared_out

    check_out(out, POOL, "train_general")
    if replays(experiment.settings):
        check_shared_out(out / RELEASES)


async def _hand_out(
    party: PoolParty, members: Mapping[str, str]
) -> tuple[Parcel, ReplaySet | None]:
    """The general model and, where sites are to personalise it, the releases for replay."""
    general = await party.model(GENERAL, members)
    if not replays(party.experiment.settings):
        return general, None
    shared = await party.share_for_replay(members)
    for site, dice in (await party.label_agreement(members)).items():
        left_out = "" if site in shared.sites else "; left out of replay"
        click.echo(f"{site}: its labels agree with the others' (Dice {dice:.2f}){left_out}")
    return general, shared
