"""`hyfree-ray pool`: the centre's program on files."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyfree_ray.commands.options import DEVICE, EXIT_CODES, STORE, experiment_options, resolved
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.evaluation.regimes import replays

if TYPE_CHECKING:
    from hyfree_ray.border.release import ReleaseMetadata
    from hyfree_ray.config.experiment import Experiment
    from hyfree_ray.core.store import Parcel
    from hyfree_ray.federation.hospital import Shared
    from hyfree_ray.federation.parcel_folders import HandedIn
    from hyfree_ray.federation.pool import PoolParty
    from hyfree_ray.federation.trust import Trust


@click.group(epilog=EXIT_CODES)
def pool() -> None:
    """The centre's part: from hospitals' releases to the general model.

    \b
    Example:
      hyfree-ray pool train releases/* --keys keys --out general
    """


@pool.command(epilog=EXIT_CODES)
@click.argument("releases", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the general model."
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of NAME.key, the public.key that each hospital gave you by another way than its "
    "release. Nobody else is taken in.",
)
@experiment_options
@STORE
@DEVICE
def train(
    releases: tuple[Path, ...],
    out: Path,
    keys: Path | None,
    store: Path,
    device: str,
    **settings: Any,
) -> None:
    """Check releases as hostile input and train the general model on those that are good.

    Signatures are checked first; the task is that of most releases that are signed and good.
    Without --keys a hospital's key is taken as its own the first time: compare the fingerprint
    with the one that the hospital was shown. A release that is refused is kept in the store's
    pool/quarantine (of who has not signed it, without its images), and the others go on.

    OUT/releases holds the good releases, for hospitals to replay while they fine-tune.
    """
    from hyfree_ray.core.parties import POOL
    from hyfree_ray.core.store import open_root
    from hyfree_ray.federation.parcel_folders import write_parcel
    from hyfree_ray.federation.replay_folders import RELEASES, remove_shared, write_shared

    experiment, _, device = resolved(device=device, **settings)
    _check_out(out, experiment)
    root = open_root(store.absolute()) / POOL
    handed = _read(sorted(releases))
    signed = _signed(handed, root, keys)
    party, described = _open_pool(signed, experiment, root, device)
    members = asyncio.run(_take_in(party, signed, described))
    if not members:
        raise HyfreeError(
            "round.too-few-releases",
            "fewer than two good releases make no general model; nothing is written",
        )
    general, shared = asyncio.run(_hand_out(party, members))
    write_parcel(out, general)
    click.echo(f"general model of {', '.join(members)} written to {out}")
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


async def _hand_out(party: PoolParty, members: Mapping[str, str]) -> tuple[Parcel, Shared | None]:
    """The general model and, where sites are to personalise it, the releases for replay."""
    general = await party.general(members)
    if not replays(party.experiment.settings):
        return general, None
    shared = await party.share_for_replay(members)
    for site, dice in (await party.agreement(members)).items():
        left_out = "" if site in shared.sites else "; not for replay"
        click.echo(f"{site}: its labels agree with the others' (Dice {dice:.2f}){left_out}")
    return general, shared


def _read(folders: Sequence[Path]) -> list[HandedIn]:
    """What is small of each release. What is none is said, and the others go on."""
    from hyfree_ray.cohorts.tables import check_site_names
    from hyfree_ray.federation.parcel_folders import read_handed_in

    found: list[HandedIn] = []
    for folder in folders:
        try:
            one = read_handed_in(folder)
            check_site_names({one.parcel.sender}, str(folder))
        except HyfreeError as error:
            click.echo(f"refused: {error}")
        else:
            found.append(one)
    return found


def _signed(handed: Sequence[HandedIn], root: Path, keys: Path | None) -> list[HandedIn]:
    """What is signed by who sent it; nothing is parsed for it. The rest is kept in quarantine."""
    from hyfree_ray.federation.quarantine import quarantine
    from hyfree_ray.federation.trust import Trust, check_signed

    trusted = Trust(root)
    signed: list[HandedIn] = []
    for one in handed:
        site, known = one.parcel.sender, trusted.key_of(one.parcel.sender)
        try:
            key = _key_from(keys, site) if keys else _key_beside(one, handed, known, trusted)
            check_signed(site, one.parcel, key)
            _check_alone(site, [other.parcel.sender for other in signed])
        except ReleaseError as error:
            quarantine(root, site, one.small, str(error))
            click.echo(str(error))
        else:
            trusted.learn(site, key)
            signed.append(one)
    return signed


def _key_from(keys: Path, site: str) -> bytes:
    """A site's key as whoever runs the federation got it."""
    from hyfree_ray.commands.release import read_public_key

    file = keys / f"{site}.key"
    if not file.exists():
        raise ReleaseError(site, "signature", f"--keys has no {file.name}")
    return read_public_key(file, "--keys")


def _key_beside(
    one: HandedIn, handed: Sequence[HandedIn], known: bytes | None, trusted: Trust
) -> bytes:
    """A site's key as it came with its release: believed once, and held to ever after.

    Raises:
        ReleaseError: it is not the one that the site had; or two folders say that they are a site
            of which none is known.
    """
    site = one.parcel.sender
    if known is not None and known != one.public_key:
        raise ReleaseError(
            site,
            "signature",
            "its key is not the one it had; ask the hospital, and only if it has a new key remove "
            f"{trusted.folder / site}",
        )
    claims = {other.public_key for other in handed if other.parcel.sender == site}
    if known is None and len(claims) > 1:
        said = "two folders with different keys say they are this site; ask it, and see --keys"
        raise ReleaseError(site, "signature", said)
    return one.public_key


def _check_alone(site: str, others: Sequence[str]) -> None:
    from hyfree_ray.cohorts.tables import check_site_names

    if site in others:
        raise ReleaseError(site, "second", "two releases of one site; name the one that is meant")
    try:
        check_site_names({*others, site})
    except HyfreeError as error:
        raise ReleaseError(site, "site", str(error)) from error


def _open_pool(
    signed: Sequence[HandedIn], experiment: Experiment, root: Path, device: str
) -> tuple[PoolParty, dict[str, ReleaseMetadata]]:
    """The centre's program for the task of most of these; and what each says its images are."""
    from hyfree_ray.core.store import digest_of
    from hyfree_ray.federation.pool import PoolParty
    from hyfree_ray.runners.local import LocalRunner

    described = _read_all(signed)
    federation, dataset = _task(described, experiment)
    # More releases later are another model, and rounds of their own. Files that were damaged on the
    # way are not in this key: whole ones are in a next round of the same.
    keys = {one.parcel.sender: one.parcel.key for one in signed}
    key = digest_of([experiment.key(federation, keys), "files"])
    party = PoolParty(key, federation, dataset, experiment, root, LocalRunner(device))
    return party, {site: metadata for site, (_, metadata) in described.items()}


def _read_all(signed: Sequence[HandedIn]) -> dict[str, tuple[str, ReleaseMetadata]]:
    """By site, what each good release was made for, and its metadata.

    The files are read in another process alone: who is taken in is read here when it is.
    """
    from hyfree_ray.border.manifest import MANIFEST_FILE, parse_manifest
    from hyfree_ray.border.release_guard import Handed, check_releases

    handed, bad = [], []
    for one in signed:
        site, text = one.parcel.sender, one.parcel.files.get(MANIFEST_FILE)
        if text is None:
            bad.append(f"{site}: withheld")
            continue
        try:
            manifest = parse_manifest(text, site=site)
        except ReleaseError as error:
            bad.append(str(error))
        else:
            handed.append(
                Handed(
                    folder=one.folder,
                    site=site,
                    experiment=manifest.experiment,
                    round_number=manifest.round,
                    manifest=manifest,
                )
            )
    found = {}
    for said, checked in zip(handed, check_releases(handed), strict=True):
        if isinstance(checked, ReleaseError):
            bad.append(str(checked))
        else:
            found[said.site] = (said.experiment, checked)
    if not found:
        for line in bad:
            click.echo(line)
        raise HyfreeError(
            "round.too-few-releases",
            "none of these releases is signed and good; nothing is written",
        )
    return found


def _task(
    described: Mapping[str, tuple[str, ReleaseMetadata]], experiment: Experiment
) -> tuple[str, Mapping[str, Any]]:
    """Federation, channels and labels: those of most good releases made by our settings.

    A site can lie about its own release, and makes itself alone another task by it.

    Raises:
        HyfreeError: there is none.
    """
    from hyfree_ray.border.manifest import recipe_in
    from hyfree_ray.core.store import digest_of
    from hyfree_ray.federation.site import RELEASE_VERSIONS
    from hyfree_ray.stages.pooling import painted_in

    votes: Counter[str] = Counter()
    tasks: dict[str, tuple[str, Mapping[str, Any]]] = {}
    recipe = experiment.recipe(RELEASE_VERSIONS)
    for federation, metadata in described.values():
        if recipe_in(federation) == recipe:
            painted = painted_in(metadata)
            channels = {str(i): name for i, name in enumerate(metadata.channel_names)}
            vote = digest_of([federation, channels, painted.numbered_by_name()])
            votes[vote] += 1
            tasks.setdefault(vote, (federation, {"channel_names": channels, **painted.dataset()}))
    if not votes:
        raise HyfreeError(
            "round.other-settings",
            "none of these releases was made by this command's settings: give the same --budget, "
            "--generator, --config and --set to all parties, of one version of hyfree-ray",
        )
    return tasks[votes.most_common(1)[0][0]]


async def _take_in(
    party: PoolParty, signed: Sequence[HandedIn], described: Mapping[str, ReleaseMetadata]
) -> dict[str, str]:
    from hyfree_ray.border.signing import fingerprint

    for one in signed:
        site = one.parcel.sender
        try:
            outcome = await party.take(site, one.whole())
        except ReleaseError as error:
            outcome = party.refuse(site, one.small, error)
        known = party.trusted.key_of(site) or b""
        click.echo(
            {
                "released": f"{site}: taken: {outcome.get('images')} images, "
                f"key {fingerprint(known)}",
                "withheld": f"{site}: withheld: {outcome['reason']}",
                "refused": f"{outcome['reason']}{_other_structures(site, described, party)}",
            }[outcome["outcome"]]
        )
    return party.close_with_late([one.parcel.sender for one in signed])


def _other_structures(site: str, described: Mapping[str, ReleaseMetadata], party: PoolParty) -> str:
    """What a release for another task labels otherwise; empty where that is not why."""
    from hyfree_ray.cohorts.label_sets import Painted
    from hyfree_ray.stages.pooling import painted_in

    if site not in described:
        return ""
    differences = Painted.of(party.dataset).differences(painted_in(described[site]))
    return f"; it {differences}" if differences else ""
