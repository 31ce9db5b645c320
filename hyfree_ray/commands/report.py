"""`hyfree-ray report`: a run as one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import click

from hyfree_ray.commands.results import warn_of_older
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.store_root import check_layout
from hyfree_ray.results.finished import Finished, find_runs, read_curve, read_finished
from hyfree_ray.results.summary import SUMMARY

log = logging.getLogger("hyfree_ray")


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
    from hyfree_ray.reports.report import write_report

    check_layout(store)
    folders = find_runs(store, runs)
    warn_of_older(folders)
    found = [read_finished(folder) for folder in folders]
    curve = None if study is None else read_curve(store, study)
    if curve is not None and not curve:
        raise HyfreeError(
            "run.no-curve",
            f"--study {study}: no curve: its simulations do not differ in their number of sites "
            "alone; leave it out",
        )
    folder = out or _folder_of(found, store)
    try:
        path = write_report(found, folder, curve=curve, real=with_real)
    except OSError as error:
        raise HyfreeError(
            "output.not-writable", f"{folder}: cannot be written ({error.strerror}); see --out"
        ) from error
    click.echo(f"report: {path}")
    if with_real:
        click.echo("it contains real images and must not leave the site that they come from")


def write_run_report(runs: Sequence[Finished], store: Path) -> Path | None:
    """Write the report that a command leaves when it is done; where it cannot, say why.

    Returns:
        The page; None: it could not be written, which takes nothing from the run itself.
    """
    from hyfree_ray.reports.report import REPORT, write_report

    folder = _folder_of(runs, store)
    try:
        if _is_newer(folder / REPORT, [run.folder / SUMMARY for run in runs]):
            return folder / REPORT
        return write_report(runs, folder)
    except (OSError, HyfreeError) as error:
        log.warning("the report could not be written (%s); see 'hyfree-ray report'", error)
        return None


def _is_newer(page: Path, files: Sequence[Path]) -> bool:
    return page.is_file() and page.stat().st_mtime_ns > max(f.stat().st_mtime_ns for f in files)


def _folder_of(runs: Sequence[Finished], store: Path) -> Path:
    name = runs[0].name
    if len(runs) > 1:
        of_all = digest_of(sorted(run.name for run in runs))[:8]
        name = f"{name}-and-{len(runs) - 1}-more-{of_all}"
    return store / "reports" / name
