"""`hyfree-ray release`: releases checked, looked at and exported by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hyfree_ray.border.gate import Gate, check_card
from hyfree_ray.border.marks import MARK
from hyfree_ray.border.opening import open_release, printable
from hyfree_ray.border.privacy_card import describe, read_card
from hyfree_ray.border.quality_card import (
    check_quality,
    describe_quality,
    read_quality_card,
)
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.core.files import write_bytes, writing_to
from hyfree_ray.core.folders import check_free, filling
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
            release = open_release(file, public)
            check_card(release, Gate())
            if release.metadata.quality:
                check_quality(release, Gate().quality)
        except ReleaseError as error:
            refused = True
            click.echo(f"{printable(file)}: refused ({error.rule}): {error.message}")
        except HyfreeError as error:
            refused = True
            click.echo(str(error))
        else:
            manifest = release.manifest
            click.echo(
                f"{printable(file)}: good: {manifest.rows} images of {printable(manifest.site)}, "
                f"round {manifest.round}, sha256 {manifest.sha256[:12]}, "
                f"{'signature not checked' if public is None else 'signed by this key'}, "
                f"for {manifest.addressee}"
            )
    return 2 if refused else 0


def run_show(file: Path, picture: Path) -> None:
    """Print the manifest and the metadata of a release, and draw its first images."""
    from hyfree_ray.reports.pictures import MAX_IMAGES, contact_sheet

    release = open_release(file)
    # JSON escapes what is not ASCII: nothing in it can steer a terminal.
    click.echo(release.manifest.to_json(), nl=False)
    click.echo(release.metadata.to_json(), nl=False)
    try:
        for line in describe(read_card(release.metadata.card)):
            click.echo(printable(line))
    except ValueError as error:
        click.echo(f"its privacy card is not ours: {printable(str(error))}")
    _show_quality(release.metadata.quality)
    with writing_to(picture, "--picture"):
        contact_sheet(
            picture,
            release.images_NCHW[:MAX_IMAGES],
            release.labels_NHW[:MAX_IMAGES],
            f"{release.metadata.site}: synthetic images and their labels",
            label_names=release.metadata.label_names,
            marks=MARK,
        )
    click.echo(f"drawn: {picture}")


def _show_quality(card: Mapping[str, Any]) -> None:
    if not card:
        return
    try:
        for line in describe_quality(read_quality_card(card)):
            click.echo(printable(line))
    except ValueError as error:
        click.echo(f"its quality card is not ours: {printable(str(error))}")


def run_dossier(file: Path, out: Path, key: Path | None = None) -> None:
    """Write the page about a release that a data protection officer reads.

    Args:
        file: the release.
        out: the HTML file.
        key: as for `run_check`.
    """
    from hyfree_ray.reports.dossier import dossier

    public = None if key is None else read_public_key(key, "--key")
    page = dossier(open_release(file, public), public)
    with writing_to(out):
        write_bytes(out, page.encode())
    click.echo(f"written: {out}")


def run_export(file: Path, target: str, out: Path) -> None:
    """Write a release into the folder `out`, in one of the forms of `release_export.EXPORTERS`."""
    from hyfree_ray.border.release_export import EXPORTERS

    check_free(out)
    release = open_release(file)
    with writing_to(out), filling(out) as partial:
        EXPORTERS[target](release, partial)
    click.echo(f"{len(release.images_NCHW)} images written to {out}")
