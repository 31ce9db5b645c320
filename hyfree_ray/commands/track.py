"""`hyfree-ray track`: rebuild MLflow's database from what the store holds."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.errors import HyfreeError

if TYPE_CHECKING:
    from hyfree_ray.observing.mlflow_values import FinalModel
    from hyfree_ray.results.summary import RunSummary, StageRun


@click.command(epilog=EXIT_CODES)
@click.argument("run")
@STORE
@click.option(
    "--register",
    is_flag=True,
    help="Also register the general model and what each hospital keeps, as nnU-Net loads them.",
)
def track(run: str, store: Path, register: bool) -> None:
    """Show a finished run in MLflow, from its records; other runs there are left as they are.

    \b
    Examples:
      hyfree-ray track Phantom-01234567
      hyfree-ray track Phantom-01234567 --register
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
    if register:
        _register(store.absolute(), run, summary)


def _track(store: Path, folder: Path, summary: RunSummary) -> int:
    """Hand every record of a run to MLflow, and return how many there were."""
    from hyfree_ray.core.journal import read_metrics
    from hyfree_ray.core.records import StageRecord
    from hyfree_ray.core.store import Store
    from hyfree_ray.observing.background import (
        Tracking,
        attach_report,
        finish_tracking,
        pictures_of,
    )

    tracking = Tracking(store, folder.name, summary.cohort, summary.experiment)
    count = 0
    for stage in summary.stages:
        found = Store(_root(store, stage.owner), stage.owner, {}).find_key(stage.stage, stage.key)
        if stage.name == "score" or not isinstance(found.record, StageRecord):
            continue  # scores are in the table
        pictures = pictures_of(folder, stage.owner) if stage.name == "release" else {}
        record = found.record.model_copy(update={"stage": stage.name})
        tracking.hand("stage_finished", record, read_metrics(found.path), pictures)
        count += 1
    finish_tracking(tracking, folder, summary)
    page = store / "reports" / folder.name / "report.html"
    if page.is_file():
        attach_report(store, folder.name, summary.cohort, page)
    return count


def _root(store: Path, owner: str) -> Path:
    from hyfree_ray.core.parties import ORACLE, POOL

    return store / owner if owner in {POOL, ORACLE} else store / "sites" / owner


def _register(store: Path, run: str, summary: RunSummary) -> None:
    """Register the final models of a run, exported so that nnU-Net's predictor takes them."""
    import tempfile

    from hyfree_ray.observing.mlflow import Tracker

    with tempfile.TemporaryDirectory(prefix="hyfree-models-") as temporary:
        models = list(_final_models(store, summary, Path(temporary)))
        tracker = Tracker(store, run, summary.cohort, {})
        tracker.register(models)
    if tracker.healthy:
        click.echo(f"registered: {', '.join(model.name for model in models) or 'nothing'}")


def _final_models(store: Path, summary: RunSummary, out: Path) -> Iterator[FinalModel]:
    """Yield the general model, and of each hospital the one that it keeps."""
    from hyfree_ray.core.parties import POOL
    from hyfree_ray.core.store import Store
    from hyfree_ray.evaluation.regimes import GENERAL
    from hyfree_ray.observing.mlflow_values import FinalModel
    from hyfree_ray.segmenters.nnunet.folders import write_results_folder

    wanted = {POOL: GENERAL}
    wanted |= {s.outcome.site: s.outcome.chosen for s in summary.sites if s.outcome.chosen}
    for owner, regime in wanted.items():
        trained = next((s for s in summary.stages if (s.owner, s.name) == (owner, regime)), None)
        if owner == POOL:
            trained = next((s for s in summary.stages if s.purpose == regime and _trains(s)), None)
        if trained is None:
            continue
        found = Store(_root(store, owner), owner, {}).find_key(trained.stage, trained.key)
        model = found.path / "model"
        if not (model / "model.json").is_file():
            continue  # an ensemble is several models
        name = regime if owner == POOL else f"{owner} {regime}"
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's own talk
            write_results_folder(model, out / name, ending=None, segmenter=None)
        (dataset,) = (out / name).glob("*/dataset.json")
        ending = json.loads(dataset.read_text())["file_ending"]
        card = f"{_card(summary, owner, regime)}\n\nIt reads images named `CASE_0000{ending}`."
        yield FinalModel(name=name, folder=out / name, card=card)


def _trains(stage: StageRun) -> bool:
    return stage.stage.startswith("train_")


def _card(summary: RunSummary, owner: str, regime: str) -> str:
    """Write what the model is, how good it is and how it is used, as Markdown."""
    from hyfree_ray.evaluation.regimes import record_of
    from hyfree_ray.results.summary import TESTED, TESTED_LABELS

    site = next((one for one in summary.sites if one.outcome.site == owner), None)
    lines = [f"**{regime}** of {owner}, run {summary.run}: {record_of(regime).label}.", ""]
    for tested in TESTED:
        score = (site or summary).score(regime, tested)
        if score is not None and score.primary is not None:
            lines.append(f"- Dice, {TESTED_LABELS[tested]}: {score.primary:.3f}")
    lines += [f"- {one.sentence}" for one in summary.verdicts if one.site == owner]
    lines += [f"- **Not a result**: {summary.warning}"] if summary.warning else []
    lines += [
        "",
        "*Own*: test patients of the hospital; *elsewhere*: of the others. Not for diagnosis.",
        "",
    ]
    lines += ["`nnUNetv2_predict_from_modelfolder -m nnUNetTrainer__nnUNetPlans__2d -f 0`"]
    return "\n".join(lines)
