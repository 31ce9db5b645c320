"""`hyfree-ray release`: releases checked, looked at and exported by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hyfree_ray.errors import HyfreeError, ReleaseError
from hyfree_ray.files import UntrustedFileError, read_untrusted
from hyfree_ray.gate import Gate, check_card
from hyfree_ray.privacy_card import in_words, read_card
from hyfree_ray.release import (
    MANIFEST_FILE,
    RELEASE_FILE,
    Limits,
    Manifest,
    Release,
    read_manifest_alone,
    read_release,
)
from hyfree_ray.release_guard import Handed, check_releases
from hyfree_ray.signing import KEY_BYTES, SIGNATURE_BYTES, SIGNATURE_FILE, is_signed_by


def run_check(files: Sequence[Path], key: Path | None = None) -> int:
    """Say one line about each file. Returns the exit code: 2 where any is refused.

    Args:
        files: releases.
        key: file with the public key of the site that they are all of; None: not looked at.
    """
    public = None if key is None else _public_key(key)
    folders = [_folder(file) for file in files]
    unsigned = [None if public is None else _unsigned(folder, public) for folder in folders]
    signed = [folder for folder, error in zip(folders, unsigned, strict=True) if error is None]
    checked = iter(_errors(signed))
    refused = False
    for file, folder, wrong in zip(files, folders, unsigned, strict=True):
        error = wrong or next(checked) or _below_gate(folder)
        if error is None:
            manifest = read_manifest_alone(folder)
            click.echo(
                f"{_shown(file)}: good: {manifest.rows} images of {_shown(manifest.site)}, "
                f"round {manifest.round}, sha256 {manifest.sha256[:12]}, "
                f"{'signature not looked at' if public is None else 'signed by this key'}"
            )
        else:
            refused = True
            click.echo(f"{_shown(file)}: refused ({error.rule}): {error.message}")
    return 2 if refused else 0


def run_show(file: Path, picture: Path) -> None:
    """Print the manifest and the metadata of a release, and draw its first images."""
    from hyfree_ray.pictures import MOST_IMAGES, contact_sheet

    release = read_checked(file)
    # JSON escapes what is not ASCII: nothing in it can steer a terminal.
    click.echo(release.manifest.to_json(), nl=False)
    click.echo(release.metadata.to_json(), nl=False)
    try:
        for line in in_words(read_card(release.metadata.card)):
            click.echo(_shown(line))
    except ValueError as error:
        click.echo(f"its privacy card is not ours: {_shown(str(error))}")
    contact_sheet(
        picture,
        release.images_NCHW[:MOST_IMAGES],
        release.labels_NHW[:MOST_IMAGES],
        f"{release.metadata.site}: synthetic images and their labels",
        label_names=release.metadata.label_names,
    )
    click.echo(f"drawn: {picture}")


def run_export(file: Path, target: str, out: Path) -> None:
    """Write a release into the folder `out`, in one of the forms of `release_export.EXPORTERS`."""
    from hyfree_ray.release_export import EXPORTERS

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HyfreeError(f"{out}: is there already; name a new or an empty folder with --out")
    release = read_checked(file)
    out.mkdir(parents=True, exist_ok=True)
    EXPORTERS[target](release, out)
    click.echo(f"{len(release.images_NCHW)} images written to {out}")


def _public_key(file: Path) -> bytes:
    try:
        content = bytes(read_untrusted(file, most=SIGNATURE_BYTES))
    except UntrustedFileError as error:
        raise HyfreeError(f"--key {_shown(file)}: {error}; name a site's public.key") from error
    if len(content) != KEY_BYTES:
        raise HyfreeError(f"--key {_shown(file)}: {len(content)} bytes, a key has {KEY_BYTES}")
    return content


def _unsigned(folder: Path, public: bytes) -> ReleaseError | None:
    """Whether somebody else, or nobody, signed the manifest: seen before any of it is parsed."""
    try:
        signature = bytes(read_untrusted(folder / SIGNATURE_FILE, most=SIGNATURE_BYTES))
        manifest = bytes(read_untrusted(folder / MANIFEST_FILE, most=Limits().manifest_bytes))
    except UntrustedFileError as error:
        return ReleaseError("release", "signature", str(error))
    if is_signed_by(public, manifest, signature):
        return None
    return ReleaseError("release", "signature", "the manifest is not signed by this key")


def _below_gate(folder: Path) -> ReleaseError | None:
    """What the default gate says of a release that is good otherwise."""
    manifest = read_manifest_alone(folder)
    known = _as_it_says(folder, manifest)
    try:
        release = read_release(
            folder,
            site=known.site,
            experiment=known.experiment,
            round_number=known.round_number,
        )
        check_card(release, Gate())
    except ReleaseError as error:
        return error
    return None


def _folder(file: Path) -> Path:
    """The folder of a release that is named by itself or by its Arrow file."""
    if file.is_dir() and not file.is_symlink():
        return file
    if file.name != RELEASE_FILE:
        raise HyfreeError(
            f"{_shown(file)}: name a {RELEASE_FILE} that has its {MANIFEST_FILE} beside it, "
            "or the folder of both"
        )
    return file.parent


def _errors(folders: Sequence[Path]) -> list[ReleaseError | None]:
    """Why each is refused. By hand nothing is known of who sent it: the manifest is believed."""
    found: list[ReleaseError | None] = []
    handed = []
    for folder in folders:
        try:
            handed.append(_as_it_says(folder, read_manifest_alone(folder)))
            found.append(None)
        except ReleaseError as error:
            found.append(error)
    checked = iter(check_releases(handed))
    return [next(checked) if error is None else error for error in found]


def _as_it_says(folder: Path, manifest: Manifest) -> Handed:
    return Handed(
        folder=folder,
        site=manifest.site,
        experiment=manifest.experiment,
        round_number=manifest.round,
    )


def read_checked(file: Path) -> Release:
    """A release that a process of its own has checked before this one reads it."""
    folder = _folder(file)
    (error,) = _errors([folder])
    if error is not None:
        raise error
    manifest = read_manifest_alone(folder)
    return read_release(
        folder,
        site=manifest.site,
        experiment=manifest.experiment,
        round_number=manifest.round,
    )


def _shown(name: Path | str) -> str:
    """Somebody else's name, on one line."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
