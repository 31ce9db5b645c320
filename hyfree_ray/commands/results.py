"""`hyfree-ray results`: runs as tables, one by one, pooled, or against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.store_root import check_layout
from hyfree_ray.evaluation.scores import csv_text
from hyfree_ray.results.finished import Finished, find_runs, is_written, read_finished
from hyfree_ray.results.pooled import compare_runs, differing_settings, pool_runs
from hyfree_ray.results.pooled_table import render_comparison, render_pooled
from hyfree_ray.results.table import render_table, wide_console


def run_results(runs: Sequence[str], store: Path, *, compare: bool, output: str) -> None:
    """Print one run, several pooled, or one minus another.

    Raises:
        HyfreeError: a run that is not there or named twice, runs that do not belong together, or a
            store of another version.
    """
    check_layout(store)
    folders = find_runs(store, runs)
    if compare:
        _compare(folders, output)
    elif output == "csv":
        click.echo(
            csv_text(row for folder in folders for row in read_finished(folder).rows), nl=False
        )
    elif len(folders) > 1:
        _pool([read_finished(folder) for folder in folders], output)
    else:
        warn_of_older(folders)
        _one(read_finished(folders[0]), output)


def warn_of_older(folders: Sequence[Path]) -> None:
    """Warn of runs whose statistics are not this version's: they are shown as they were written."""
    for folder in folders:
        if not is_written(folder):
            click.echo(
                f"warning: {folder.name}: another version wrote this, or it was not finished; the "
                "same 'simulate' command writes it anew, with this version's statistics",
                err=True,
            )


def _one(run: Finished, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(run.summary.to_json(), indent=1))
        return
    wide_console().print(run.name, style="bold", markup=False, highlight=False)
    wide_console().print(render_table(run.summary))


def _pool(runs: Sequence[Finished], output: str) -> None:
    pooled = pool_runs(runs)
    if output == "json":
        click.echo(json.dumps(pooled.to_json(), indent=1))
        return
    wide_console().print(render_pooled(pooled))


def _compare(folders: Sequence[Path], output: str) -> None:
    if len(folders) != 2 or output == "csv":
        raise HyfreeError("option.conflict", "--compare: needs two runs, and --format text or json")
    one, other = (read_finished(folder) for folder in folders)
    contrasts, settings = compare_runs(one, other), differing_settings(one, other)
    if output == "json":
        found = [one.to_json() for one in contrasts]
        click.echo(json.dumps({"settings": settings, "contrasts": found}, indent=1))
        return
    wide_console().print(render_comparison(one.name, other.name, settings, contrasts))
