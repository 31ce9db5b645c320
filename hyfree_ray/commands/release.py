"""`hyfree-ray release`: releases checked, looked at and exported by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hyfree_ray.border.gate import Gate, check_card
from hyfree_ray.border.manifest import (
    MANIFEST_FILE,
    Limits,
    Manifest,
    parse_manifest,
    read_manifest,
)
from hyfree_ray.border.privacy_card import describe, read_card
from hyfree_ray.border.release import RELEASE_FILE, Release, read_release
from hyfree_ray.border.release_guard import SubmittedRelease, check_release_file
from hyfree_ray.border.signing import SIGNATURE_BYTES, SIGNATURE_FILE, is_signed_by
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.files import writing_to
from hyfree_ray.core.folders import check_free, filling
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted
from hyfree_ray.federation.trust import read_public_key


def run_check(files: Sequence[Path], key: Path | None = None) -> int:
    """Say one line about each file. Returns the exit code: 2 where any is refused.

    Args:
        files: releases.
        key: file with the public key of the site that they are all of; None: not looked at.
    """
    public = None if key is None else read_public_key(key, "--key")
    refused = False
    for file in files:
        try:
            folder = _folder(file)
            manifest = _manifest(folder, public)
            check_card(read_checked(folder, manifest), Gate())
        except ReleaseError as error:
            refused = True
            click.echo(f"{_shown(file)}: refused ({error.rule}): {error.message}")
        except HyfreeError as error:
            refused = True
            click.echo(str(error))
        else:
            click.echo(
                f"{_shown(file)}: good: {manifest.rows} images of {_shown(manifest.site)}, "
                f"round {manifest.round}, sha256 {manifest.sha256[:12]}, "
                f"{'signature not checked' if public is None else 'signed by this key'}"
            )
    return 2 if refused else 0


def run_show(file: Path, picture: Path) -> None:
    """Print the manifest and the metadata of a release, and draw its first images."""
    from hyfree_ray.reports.pictures import MAX_IMAGES, contact_sheet

    release = _read_named(file)
    # JSON escapes what is not ASCII: nothing in it can steer a terminal.
    click.echo(release.manifest.to_json(), nl=False)
    click.echo(release.metadata.to_json(), nl=False)
    try:
        for line in describe(read_card(release.metadata.card)):
            click.echo(_shown(line))
    except ValueError as error:
        click.echo(f"its privacy card is not ours: {_shown(str(error))}")
    with writing_to(picture, "--picture"):
        contact_sheet(
            picture,
            release.images_NCHW[:MAX_IMAGES],
            release.labels_NHW[:MAX_IMAGES],
            f"{release.metadata.site}: synthetic images and their labels",
            label_names=release.metadata.label_names,
        )
    click.echo(f"drawn: {picture}")


def run_export(file: Path, target: str, out: Path) -> None:
    """Write a release into the folder `out`, in one of the forms of `release_export.EXPORTERS`."""
    from hyfree_ray.border.release_export import EXPORTERS

    check_free(out)
    release = _read_named(file)
    with writing_to(out), filling(out) as partial:
        EXPORTERS[target](release, partial)
    click.echo(f"{len(release.images_NCHW)} images written to {out}")


def _manifest(folder: Path, public: bytes | None) -> Manifest:
    """Read the manifest as it is now; all that follows is held to these very bytes.

    Args:
        folder: of the release.
        public: the key that must have signed it, which is seen before any of it is parsed.

    Raises:
        ReleaseError: rule `signature` where somebody else, or nobody, did; or what is wrong.
    """
    if public is None:
        return read_manifest(folder)
    try:
        text = read_untrusted(folder / MANIFEST_FILE, most=Limits().manifest_bytes)
        signature = read_untrusted(folder / SIGNATURE_FILE, most=SIGNATURE_BYTES)
    except UntrustedFileError as error:
        raise ReleaseError("release", "signature", str(error)) from error
    if not is_signed_by(public, text, signature):
        raise ReleaseError("release", "signature", "the manifest is not signed by this key")
    return parse_manifest(text)


def _folder(file: Path) -> Path:
    """Find the folder of a release that is named by itself or by its Arrow file."""
    if file.is_dir() and not file.is_symlink():
        return file
    if not file.parent.is_dir() or (file.name != RELEASE_FILE and not os.path.lexists(file)):
        raise HyfreeError(
            "release.not-found", f"{_shown(file)}: no release: there is no such file or folder"
        )
    if file.name != RELEASE_FILE:
        raise HyfreeError(
            "release.not-found",
            f"{_shown(file)}: no release: name a {RELEASE_FILE} that has its {MANIFEST_FILE} "
            "beside it, or the folder of both",
        )
    return file.parent


def read_checked(file: Path, manifest: Manifest | None = None) -> Release:
    """Read a release once a process of its own has checked it.

    By hand nothing is known of who sent it: the manifest is believed.

    Args:
        file: the release, or its folder.
        manifest: as it was read before; None: it is read now.

    Raises:
        ReleaseError: why it is refused.
    """
    folder = _folder(file)
    known = _as_it_says(manifest or read_manifest(folder))
    check_release_file(SubmittedRelease(folder=folder, **known))
    return read_release(folder, **known)


def _read_named(file: Path) -> Release:
    """Read a checked release; a refusal names the path, for nobody is known who submitted it."""
    try:
        return read_checked(file)
    except ReleaseError as error:
        raise ReleaseError(_shown(file), error.rule, error.message) from error


def _as_it_says(manifest: Manifest) -> dict[str, Any]:
    return {
        "site": manifest.site,
        "experiment": manifest.experiment,
        "round_number": manifest.round,
        "manifest": manifest,
    }


def _shown(name: Path | str) -> str:
    """Put somebody else's name on one line."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
