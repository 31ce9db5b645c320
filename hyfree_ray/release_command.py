"""`hyfree-ray release`: releases checked, looked at and exported by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hyfree_ray.errors import HyfreeError, ReleaseError
from hyfree_ray.release import (
    MANIFEST_FILE,
    RELEASE_FILE,
    Manifest,
    Release,
    read_manifest_alone,
    read_release,
)
from hyfree_ray.release_guard import Handed, check_releases


def run_check(files: Sequence[Path]) -> int:
    """Say one line about each file. Returns the exit code: 2 where any is refused."""
    folders = [_folder(file) for file in files]
    refused = False
    for file, folder, error in zip(files, folders, _errors(folders), strict=True):
        if error is None:
            manifest = read_manifest_alone(folder)
            click.echo(
                f"{_shown(file)}: good: {manifest.rows} images of {_shown(manifest.site)}, "
                f"round {manifest.round}, sha256 {manifest.sha256[:12]}"
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
