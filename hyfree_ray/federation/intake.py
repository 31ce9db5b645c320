"""The pool's intake from folders: it decides which keys and which task to believe.

Signatures are checked first, with nothing parsed; then another process reads each release to its
end; then the task is that of the majority of the good releases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyfree_ray.border.manifest import (
    MANIFEST_FILE,
    UNNAMED,
    addressee_in,
    parse_manifest,
    recipe_in,
)
from hyfree_ray.border.release import ReleaseMetadata
from hyfree_ray.border.release_guard import SubmittedRelease, check_releases
from hyfree_ray.border.signing import fingerprint
from hyfree_ray.cohorts.label_sets import LabelEncoding
from hyfree_ray.cohorts.tables import check_site_names
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.documents import Documents
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.federation.admissions import Admissions, Statement
from hyfree_ray.federation.parcel_folders import Submission, read_submission
from hyfree_ray.federation.party import Runner
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.quarantine import quarantine
from hyfree_ray.federation.release_versions import RELEASE_VERSIONS
from hyfree_ray.federation.trust import Trust, check_signed, read_public_key
from hyfree_ray.stages.pooling import label_encoding_of

Report = Callable[[str], None]
"""Called with a line about each folder."""


def read_submissions(folders: Sequence[Path], report: Report) -> list[Submission]:
    """Read the small files of each release. Report folders that hold none, and go on."""
    found: list[Submission] = []
    for folder in folders:
        try:
            one = read_submission(folder)
            check_site_names({one.parcel.sender}, str(folder))
        except HyfreeError as error:
            report(f"refused: {error}")
        else:
            found.append(one)
    return found


def check_signatures(
    submitted: Sequence[Submission], root: Path, keys: Path | None, report: Report
) -> list[Submission]:
    """Return submissions signed by their senders, without parsing them; quarantine the rest.

    Nothing is learned here: a key is stored once its release has been accepted, see `take_in`.

    Returns:
        Those signed, with the key that each was checked with as its `public_key`.
    """
    trusted = Trust(root)
    signed: list[Submission] = []
    for one in submitted:
        site, known = one.parcel.sender, trusted.key_of(one.parcel.sender)
        try:
            key = (
                _key_from(keys, site) if keys else _key_on_first_use(one, submitted, known, trusted)
            )
            check_signed(site, one.parcel, key)
            _check_alone(site, [other.parcel.sender for other in signed], trusted.sites())
        except ReleaseError as error:
            quarantine(root, site, one.small, str(error))
            report(str(error))
        else:
            signed.append(replace(one, public_key=key))
    return signed


def check_newest(signed: Sequence[Submission], root: Path, report: Report) -> list[Submission]:
    """Return submissions that are the newest of their sites; quarantine those gone back to.

    They are left out before there is a round: one that they were in is not the round of the rest.
    """
    admissions = Admissions(Documents(root))
    newest = []
    for one in signed:
        try:
            statement = Statement.of(one.parcel)
        except ReleaseError:
            newest.append(one)  # malformed: refused where it is read
            continue
        try:
            admissions.check_newest(statement)
        except ReleaseError as error:
            quarantine(root, one.parcel.sender, one.small, str(error))
            report(str(error))
        else:
            newest.append(one)
    return newest


def _key_from(keys: Path, site: str) -> bytes:
    """Return a site's key as the operator of the federation received it."""
    file = keys / f"{site}.key"
    if not file.exists():
        raise ReleaseError(site, "signature", f"--keys has no {file.name}")
    return read_public_key(file, "--keys")


def _key_on_first_use(
    one: Submission, submitted: Sequence[Submission], known: bytes | None, trusted: Trust
) -> bytes:
    """Return a site's key as it came with its release: trusted on first use, and binding after.

    Raises:
        ReleaseError: it is not the site's known key; or two folders claim to be a site without one.
    """
    site = one.parcel.sender
    if known is not None and known != one.public_key:
        raise ReleaseError(
            site,
            "signature",
            "its key has changed; ask the hospital, and only if it really has a new key, delete "
            f"{trusted.folder / site}",
        )
    claims = {other.public_key for other in submitted if other.parcel.sender == site}
    if known is None and len(claims) > 1:
        said = "two folders with different keys claim to be this site; ask it, and see --keys"
        raise ReleaseError(site, "signature", said)
    return one.public_key


def _check_alone(site: str, others: Sequence[str], known: Iterable[str]) -> None:
    """Refuse a site that hands in twice, or is called like another one, of earlier runs too."""
    if site in others:
        raise ReleaseError(site, "second", "two releases of one site; name only one of them")
    for other in sorted({*others, *known}):
        try:
            check_site_names({other, site})
        except HyfreeError as error:
            raise ReleaseError(site, "site", str(error)) from error


def open_pool(
    signed: Sequence[Submission], experiment: Experiment, root: Path, runner: Runner, report: Report
) -> tuple[PoolParty, dict[str, ReleaseMetadata]]:
    """Create the pool's program for the majority's task; return it with each release's metadata."""
    described = _read_all(signed, report)
    federation, dataset = _task(described, experiment)
    # More releases later are another model, and rounds of their own. Files that were damaged on the
    # way are not in this key: whole ones are in a next round of the same.
    keys = {one.parcel.sender: one.parcel.key for one in signed}
    key = digest_of([experiment.key(federation, keys), "files"])
    party = PoolParty(key, federation, dataset, experiment, root, runner)
    return party, {site: metadata for site, (_, metadata) in described.items()}


def _read_all(
    signed: Sequence[Submission], report: Report
) -> dict[str, tuple[str, ReleaseMetadata]]:
    """Return, by site, what each good release was made for, and its metadata.

    Only another process reads the files; this one reads a release when it is taken in.
    """
    submitted, bad = [], []
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
            submitted.append(
                SubmittedRelease(
                    folder=one.folder,
                    site=site,
                    experiment=manifest.experiment,
                    round_number=manifest.round,
                    manifest=manifest,
                )
            )
    found = {}
    for said, checked in zip(submitted, check_releases(submitted), strict=True):
        if isinstance(checked, ReleaseError):
            bad.append(str(checked))
        else:
            found[said.site] = (said.experiment, checked)
    if not found:
        for line in bad:
            report(line)
        raise HyfreeError(
            "round.too-few-releases",
            "none of these releases is signed and good; nothing was written",
        )
    return found


def _task(
    described: Mapping[str, tuple[str, ReleaseMetadata]], experiment: Experiment
) -> tuple[str, Mapping[str, Any]]:
    """Return federation, channels and labels of the majority of good releases made by our settings.

    A site that lies about its own release only puts itself into another task.

    Raises:
        HyfreeError: there is none.
    """
    votes: Counter[str] = Counter()
    tasks: dict[str, tuple[str, Mapping[str, Any]]] = {}
    recipe, addressee = experiment.recipe(RELEASE_VERSIONS), experiment.addressee.key
    for federation, metadata in described.values():
        if (recipe_in(federation), addressee_in(federation)) == (recipe, addressee):
            encoding = label_encoding_of(metadata)
            channels = {str(i): name for i, name in enumerate(metadata.channel_names)}
            vote = digest_of([federation, channels, encoding.numbered_by_name()])
            votes[vote] += 1
            tasks.setdefault(vote, (federation, {"channel_names": channels, **encoding.dataset()}))
    if not votes:
        raise HyfreeError(
            "round.other-settings",
            "none of these releases was made with this command's settings, for "
            f"{experiment.addressee}; use the same --budget, --generator, --config and --set "
            "and the same version of hyfree-ray at all parties",
        )
    return tasks[votes.most_common(1)[0][0]]


async def take_in(
    party: PoolParty,
    signed: Sequence[Submission],
    described: Mapping[str, ReleaseMetadata],
    report: Report,
) -> dict[str, str]:
    """Have the pool take in the signed submissions, and close a round of the good ones.

    A site's key is stored once its release is accepted: junk that a stranger has signed in its name
    teaches the pool nothing.

    Returns:
        Keys of the releases by site; empty if there are fewer than two.
    """
    if UNNAMED in (party.experiment.pool, party.experiment.federation):
        report(
            "this pool or federation has no name: a release made for it fits any other without "
            "one; set pool and federation at all parties, with --set or in --config"
        )
    trusted = party.workspace.trusted
    for one in signed:
        site = one.parcel.sender
        trusted.believe(site, one.public_key)
        try:
            receipt = await party.take(site, one.whole())
        except ReleaseError as error:
            receipt = party.refuse(site, one.small, error).receipt
        if receipt.outcome == "released":
            trusted.learn(site, one.public_key)
            key = fingerprint(one.public_key)
            report(f"{site}: accepted: {receipt.images} images, key {key}")
        elif receipt.outcome == "withheld":
            report(f"{site}: withheld: {receipt.reason}")
        else:
            report(f"{receipt.reason}{_other_structures(site, described, party)}")
    return party.rounds.close_with_late([one.parcel.sender for one in signed])


def _other_structures(site: str, described: Mapping[str, ReleaseMetadata], party: PoolParty) -> str:
    """Describe how the labels of a release for another task differ; empty if that is not the
    cause."""
    if site not in described:
        return ""
    differences = LabelEncoding.of(party.dataset).differences(label_encoding_of(described[site]))
    return f"; it {differences}" if differences else ""
