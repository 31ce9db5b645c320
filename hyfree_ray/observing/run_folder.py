"""What a run leaves in its folder, `runs/RUN` in the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hyfree_ray.core.files import replacing
from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.scores import write_results
from hyfree_ray.federation.interface import Handle, PoolProgram, SiteProgram
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.simulation import Simulation, score_rows
from hyfree_ray.observing.description import describe_run
from hyfree_ray.observing.observer import Observed
from hyfree_ray.results.curves import learning_curve, write_curves
from hyfree_ray.results.finished import BY_STEP, mark_outdated, mark_written
from hyfree_ray.results.summary import write_summary
from hyfree_ray.results.table import table_text
from hyfree_ray.results.timeline import write_timeline


async def write_run(
    folder: Path,
    simulation: Simulation,
    observed: Observed,
    outcome: Outcome,
    parties: Mapping[str, Handle],
) -> None:
    """Write everything that a run leaves, `summary.json` last: with it, a run is finished.

    Args:
        folder: of the run.
        simulation: the run.
        observed: all that its parties have reported.
        outcome: what came of it.
        parties: the pool has the contact sheets of the releases, phantoms their own pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark_outdated(folder)
    rows = score_rows(simulation, outcome)
    summary = describe_run(simulation, rows, outcome, observed)
    write_results(folder / "results.csv", rows)
    await _write_pictures(folder, simulation, observed, parties)
    stages = [(stage.name, stage.record) for stage in observed.stages.values()]
    write_timeline(folder, simulation.party_names, stages)
    trained = (
        learning_curve(stage.record.owner, stage.purpose, stage.curve)
        for _, stage in sorted(observed.stages.items())
        if stage.record.stage.startswith("train_")  # others report progress, too
    )
    write_curves(folder, [one for one in trained if one is not None])
    with replacing(folder / "table.txt") as file:
        file.write(table_text(summary).encode())
    write_summary(folder, summary)
    if not observed.unanswered:
        mark_written(folder)


async def _write_pictures(
    folder: Path, simulation: Simulation, observed: Observed, parties: Mapping[str, Handle]
) -> None:
    """Write the contact sheets of releases, and what phantoms show of their trainings."""
    (folder / "samples").mkdir(exist_ok=True)
    (folder / BY_STEP).mkdir(exist_ok=True)
    for site in simulation.sites:
        sheet = None
        if POOL not in observed.unanswered:
            sheet = await parties[POOL].call(PoolProgram.picture, site)
        if sheet is not None:
            with replacing(folder / "samples" / f"{site}.png") as file:
                file.write(sheet)
        if site in observed.unanswered:
            continue
        pictures = await parties[site].call(SiteProgram.training_pictures)
        for name, picture in pictures.items():
            (folder / BY_STEP / site).mkdir(exist_ok=True)
            with replacing(folder / BY_STEP / site / name) as file:
                file.write(picture)
