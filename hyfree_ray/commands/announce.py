"""Print the plan of a run, what its numbers are derived from, and what it will cost."""

from __future__ import annotations

import json

import click

from hyfree_ray.federation.hospital import images_shown, quota
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import Step
from hyfree_ray.observing.progress import clock, describe
from hyfree_ray.runners.run import PlannedRun, expected_wall_s
from hyfree_ray.scheduling.capacity import format_needs
from hyfree_ray.scheduling.estimates import Cost
from hyfree_ray.scheduling.history import OTHER_SECONDS
from hyfree_ray.scheduling.resources import resources_of


def announce(run: PlannedRun, output: str, *, details: bool) -> None:
    """Print what will run and how long that takes, as text.

    Args:
        run: the run, with what is expected of it.
        output: "text" or "json", which prints nothing.
        details: say also which numbers are derived from what.
    """
    if output != "text":
        return
    simulation, total, missing = run.simulation, len(run.planned.steps), len(run.planned.missing)
    seconds = expected_wall_s(run)
    takes = ""
    if missing:
        where = "on this cluster" if run.remote else "on this machine"
        takes = "; how long it takes shows after its first stages"
        takes = takes if seconds is None else f"; about {clock(max(1.0, seconds))} {where}"
    sites = f"{len(simulation.sites)} site{'s' * (len(simulation.sites) > 1)}"
    click.echo(f"run {simulation.run}: {sites}, {total} stages{takes}")
    if details:
        for reason in (*simulation.reasons, *_derived(simulation)):
            click.echo(f"  {reason}")
    click.echo(f"  store: {run.runtime.store}")
    if missing == 0:
        click.echo("  all stages are already done")
    elif missing < total:
        click.echo(f"  {total - missing} stages are already done, {missing} remain")


def _derived(simulation: Simulation) -> list[str]:
    """The numbers that follow from the budget and the data, each with its reason."""
    budget = simulation.experiment.budget
    unet, generator, synthesis = budget.unet, budget.generator, budget.synthesis
    both = unet.epochs + unet.finetune_epochs
    lines = [
        f"local and general: {unet.epochs} epochs of {unet.iterations} batches; fine-tuning: "
        f"{unet.finetune_epochs}; local2x: {both}, as many as general and fine-tuning together"
    ]
    for site in simulation.sites.values():
        shown, images = images_shown(site, budget), quota(site, budget)
        most = f", at most {synthesis.max_images}" if synthesis.max_images else ""
        lines.append(
            f"{site.name}: {site.training_images} training images; its generator trains on {shown} "
            f"({generator.images_shown_per_image} times each, at least "
            f"{generator.min_images_shown}); up to {images} images to release "
            f"({synthesis.per_real:g} for each{most})"
        )
    return lines


def print_plan(run: PlannedRun, cost: Cost, output: str) -> None:
    """Print all stages by owner, what is done, and what is expected of the rest.

    Args:
        run: the run.
        cost: what is expected of it.
        output: "text" or "json".
    """
    planned, resources, device = run.planned, run.execution.resources, run.runtime.device
    if output == "json":
        described = [
            {
                **{"owner": s.owner, "stage": s.name, "key": s.key},
                **{"done": s.done, "device": s.device},
                "takes": resources_of(s.owner, resources).needs(
                    on_gpu=device == "cuda" and s.device
                ),
                "expected_seconds": cost.seconds[s.key] if cost.is_known else None,
            }
            for s in planned.steps
        ]
        expected = {
            "device_hours": cost.device_hours if cost.is_known else None,
            "least_hours": cost.least_hours if cost.is_known else None,
            "disk_gib": cost.disk_gib,
        }
        click.echo(json.dumps({"steps": described, "expected": expected}, indent=1))
        return
    by_owner: dict[str, list[Step]] = {}
    for step in planned.steps:
        by_owner.setdefault(step.owner, []).append(step)
    for owner, steps in by_owner.items():
        each = format_needs(resources_of(owner, resources).needs(on_gpu=device == "cuda"))
        click.echo(f"{owner}: each stage takes {each}")
        kinds: dict[tuple[str, bool, bool], list[Step]] = {}
        for step in steps:
            task = describe(step.name, step.purpose)
            kinds.setdefault((task, step.device, step.done), []).append(step)
        for (task, on_device, done), same in kinds.items():
            times = f" x{len(same)}" if len(same) > 1 else ""
            needs = "device" if on_device else "cpu"
            is_expected = cost.is_known and any(cost.seconds[s.key] != OTHER_SECONDS for s in same)
            takes = clock(sum(cost.seconds[s.key] for s in same)) if is_expected else ""
            state = "done" if done else f"to run  {takes:>8}".rstrip()
            click.echo(f"  {task + times:<36} {needs:<7} {state}")
    click.echo(cost.describe_time())
    click.echo(f"expected size: {cost.describe_disk()}")
    if (measured := run.simulation.measured) is not None:
        click.echo(
            f"the precision was measured for this plan alone, as {measured.precision}: a dry run "
            "keeps nothing in the store, and the run will measure again"
        )
