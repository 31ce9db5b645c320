"""`hyfree-ray runs`: what a store has results of."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from hyfree_ray.commands.command_group import CommandGroup
from hyfree_ray.commands.options import EXIT_CODES, FORMAT, STORE


@click.group(cls=CommandGroup, epilog=EXIT_CODES)
def runs() -> None:
    """List a store's finished runs.

    \b
    Example:
      hyfree-ray runs ls
    """


@runs.command(epilog=EXIT_CODES)
@STORE
@FORMAT
def ls(store: Path, output: str) -> None:
    """List finished runs, the newest last: what to give to results and report.

    \b
    Examples:
      hyfree-ray runs ls
      hyfree-ray runs ls --store other-store --format json
    """
    from rich import box
    from rich.table import Table

    from hyfree_ray.core.store_root import check_layout
    from hyfree_ray.results.finished import finished_folders
    from hyfree_ray.results.table import wide_console

    check_layout(store)
    rows = [_described(folder) for folder in finished_folders(store)]
    if output == "json":
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row.values()))
    wide_console().print(table)


def _described(folder: Path) -> dict[str, Any]:
    from hyfree_ray.results.finished import read_finished
    from hyfree_ray.results.summary import SUMMARY

    run = read_finished(folder)
    settings = run.summary.experiment
    written = time.localtime((folder / SUMMARY).stat().st_mtime)
    return {
        "run": run.name,
        "finished": time.strftime("%Y-%m-%d %H:%M", written),
        "sites": len(run.sites),
        "fold": run.fold,
        "seed": run.seed,
        "generator": settings["generator"]["name"],
        "settings": ",".join(settings.get("settings", ())),
    }
