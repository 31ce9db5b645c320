"""A release opened by hand, by whoever holds it: checked as the pool checks what comes in."""

from __future__ import annotations

import os
from pathlib import Path

from hyfree_ray.border.manifest import (
    MANIFEST_FILE,
    Limits,
    Manifest,
    parse_manifest,
    read_manifest,
)
from hyfree_ray.border.release import RELEASE_FILE, Release, read_release
from hyfree_ray.border.release_guard import SubmittedRelease, check_release_file
from hyfree_ray.border.signing import SIGNATURE_BYTES, SIGNATURE_FILE, is_signed_by
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted


def open_release(file: Path, public: bytes | None = None) -> Release:
    """Read a release that a process of its own has checked before this one reads it.

    By hand nothing is known of who sent it: the manifest is believed.

    Args:
        file: the release, or its folder.
        public: the key that must have signed it, which is seen before anything is parsed; None:
            the signature is not looked at.

    Raises:
        HyfreeError: there is none.
        ReleaseError: why it is refused; it names the path.
    """
    try:
        folder = _folder(file)
        manifest = _manifest(folder, public)  # all that follows is held to these very bytes
        site, made_for, number = manifest.site, manifest.experiment, manifest.round
        check_release_file(
            SubmittedRelease(
                folder=folder,
                site=site,
                experiment=made_for,
                round_number=number,
                manifest=manifest,
            )
        )
        return read_release(
            folder, site=site, experiment=made_for, round_number=number, manifest=manifest
        )
    except ReleaseError as error:
        raise ReleaseError(printable(file), error.rule, error.message) from error


def printable(name: Path | str) -> str:
    """Write somebody else's name on one line."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def _manifest(folder: Path, public: bytes | None) -> Manifest:
    """The manifest as it is now.

    Raises:
        ReleaseError: rule `signature` where somebody else, or nobody, signed it; or what is wrong.
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
    """The folder of a release that is named by itself or by its Arrow file."""
    if file.is_dir():  # also by a link: whoever checks has named it, and its files are no links
        return file
    if not file.parent.is_dir() or (file.name != RELEASE_FILE and not os.path.lexists(file)):
        raise HyfreeError(
            "release.not-found", f"{printable(file)}: no release: there is no such file or folder"
        )
    if file.name != RELEASE_FILE:
        raise HyfreeError(
            "release.not-found",
            f"{printable(file)}: no release: name a {RELEASE_FILE} that has its {MANIFEST_FILE} "
            "beside it, or the folder of both",
        )
    return file.parent
