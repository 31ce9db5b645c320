"""`hyfree-ray track`: rebuild MLflow's database from what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.errors import HyfreeError

if TYPE_CHECKING:
    from hyfree_ray.results.summary import RunSummary


@click.command(epilog=EXIT_CODES)
@click.argument("run")
@STORE
def track(run: str, store: Path) -> None:
    """Show a finished run in MLflow, from its records; other runs there are left as they are.

    \b
    Example:
      hyfree-ray track Phantom-01234567
    """
    from hyfree_ray.core.store_root import check_layout
    from hyfree_ray.observing.mlflow import database_uri
    from hyfree_ray.results.finished import is_shown, mark_hidden, read_finished

    check_layout(store)
    folder = store.absolute() / "runs" / run
    if not (folder / "summary.json").is_file():
        there = sorted(file.parent.name for file in (store / "runs").glob("*/summary.json"))
        names = ", ".join(there) or "none"
        raise HyfreeError("run.not-found", f"{store}: no finished run {run!r}; there are: {names}")
    summary = read_finished(folder).summary
    mark_hidden(folder)
    count = _track(store.absolute(), folder, summary)
    if not is_shown(folder):
        raise HyfreeError(
            "mlflow.not-writable",
            f"{store / 'mlflow.db'}: MLflow cannot write it; see 'hyfree-ray doctor'",
        )
    click.echo(f"{run}: {count} stages shown in {database_uri(store)}")


def _track(store: Path, folder: Path, summary: RunSummary) -> int:
    """Hand every record of a run to MLflow, and return how many there were."""
    from hyfree_ray.core.journal import read_metrics
    from hyfree_ray.core.parties import ORACLE, POOL
    from hyfree_ray.core.records import StageRecord
    from hyfree_ray.core.store import Store
    from hyfree_ray.observing.background import Tracking, finish_tracking, pictures_of

    tracking = Tracking(store, folder.name, summary.cohort, summary.experiment)
    count = 0
    for stage in summary.stages:
        owner = stage.owner
        root = store / owner if owner in {POOL, ORACLE} else store / "sites" / owner
        found = Store(root, owner, {}).find_key(stage.stage, stage.key)
        if stage.name == "score" or not isinstance(found.record, StageRecord):
            continue  # scores are in the table
        pictures = pictures_of(folder, owner) if stage.name == "release" else {}
        record = found.record.model_copy(update={"stage": stage.name})
        tracking.hand("stage_finished", record, read_metrics(found.path), pictures)
        count += 1
    finish_tracking(tracking, folder, summary)
    return count
