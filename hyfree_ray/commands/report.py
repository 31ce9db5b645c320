"""`hyfree-ray report`: a run as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hyfree_ray.commands.results import warn_of_older
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.store_root import check_layout
from hyfree_ray.reports.report import write_report
from hyfree_ray.results.finished import find_runs, read_curve, read_finished


def run_report(
    runs: Sequence[str],
    store: Path,
    *,
    out: Path | None,
    study: str | None,
    with_real: Sequence[Path],
) -> None:
    """Write the report of the newest run, or of the named ones, and say where it is.

    Raises:
        HyfreeError: a run that is not there or named twice, a store of another version, or a folder
            that cannot be written to.
    """
    check_layout(store)
    folders = find_runs(store, runs)
    warn_of_older(folders)
    found = [read_finished(folder) for folder in folders]
    name = found[0].name
    if len(found) > 1:
        of_all = digest_of(sorted(run.name for run in found))[:8]
        name = f"{name}-and-{len(found) - 1}-more-{of_all}"
    curve = None if study is None else read_curve(store, study)
    if curve is not None and not curve:
        raise HyfreeError(
            "run.no-curve",
            f"--study {study}: no curve: its simulations do not differ in their number of sites "
            "alone; leave it out",
        )
    folder = out or store / "reports" / name
    try:
        path = write_report(found, folder, curve=curve, real=with_real)
    except OSError as error:
        raise HyfreeError(
            "output.not-writable", f"{folder}: cannot be written ({error.strerror}); see --out"
        ) from error
    click.echo(f"report: {path}")
    if with_real:
        click.echo("it contains real images and must not leave the site that they come from")
