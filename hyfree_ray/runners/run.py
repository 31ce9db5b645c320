"""A simulation's run: planned, checked, estimated, executed, written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from hyfree_ray.config.device import find_device
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import ClusterError, HyfreeError
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.precision import keep_precision
from hyfree_ray.core.store_root import open_root
from hyfree_ray.federation import protocol
from hyfree_ray.federation.interface import Handle
from hyfree_ray.federation.participation import check_drops
from hyfree_ray.federation.rounds import MIN_RELEASES
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.observing.observer import Observer
from hyfree_ray.observing.progress import Progress
from hyfree_ray.observing.run_folder import write_run
from hyfree_ray.observing.time_left import TimeLeft
from hyfree_ray.results.finished import Finished, is_current, mark_outdated, read_finished
from hyfree_ray.runners.fault_injection import inject_faults
from hyfree_ray.runners.local import LocalParty, LocalRunner
from hyfree_ray.runners.planning import Planned, plan
from hyfree_ray.scheduling.estimates import Cost, estimate
from hyfree_ray.scheduling.history import (
    RunHistory,
    expected_seconds,
    merge,
    outlooks,
    read_history,
    share_of_full_size,
)
from hyfree_ray.scheduling.resources import Execution, check_machine, check_parties

log = logging.getLogger("hyfree_ray")

_GLANCE_S = 4.0
"""How long each training is timed before a run of which nothing tells how long it takes."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A planned simulation, and how it is executed."""

    simulation: Simulation
    """Of the round that is planned."""
    planned: Planned
    runtime: Runtime
    execution: Execution
    expected_s: Mapping[str, float] | None = None
    """Seconds of each stage, by key; None: nothing tells."""

    @property
    def folder(self) -> Path:
        """Folder that it is written to."""
        return self.runtime.store / "runs" / self.simulation.run

    @property
    def remote(self) -> bool:
        """Whether it runs on a cluster that is there already."""
        return self.runtime.ray not in {"local", "off"}


@contextlib.contextmanager
def joined(ray: str) -> Iterator[None]:
    """Join the cluster at an address for as long as the block runs; `local` and `off` are none."""
    with contextlib.nullcontext() if ray in {"local", "off"} else connected(ray):
        yield


@contextlib.contextmanager
def connected(address: str, actors: int = 0) -> Iterator[None]:
    """Join the cluster at an address, or start one here ("local"), for as long as the block runs.

    Args:
        address: see `ray_cluster.connect`.
        actors: that will run on the started one.

    Raises:
        HyfreeError: nothing answers there.
    """
    from hyfree_ray.runners.ray_cluster import connect, disconnect

    connect(address, actors=actors)
    try:
        yield
    except ClusterError:
        raise  # there is nobody to take leave of
    except BaseException:
        disconnect()
        raise
    disconnect()


def plan_run(simulation: Simulation, runtime: Runtime, execution: Execution) -> PlannedRun:
    """Plan a run; nothing is written.

    Raises:
        HyfreeError: names that nothing has, or what could never start.
    """
    planned = plan(simulation, runtime.store, execution.rules)
    simulation = replace(simulation, round=planned.outcome.round)
    run = PlannedRun(simulation=simulation, planned=planned, runtime=runtime, execution=execution)
    _check(run)
    return run


def _check(run: PlannedRun) -> None:
    planned, execution = run.planned, run.execution
    if not planned.taking_part:
        raise HyfreeError(
            "round.nobody-left",
            "--withdraw: this would withdraw all sites and leave nothing to run; nothing was "
            "recorded; keep at least one site",
        )
    names = {site: _stages(planned, site) for site in execution.rules.fault_injections}
    check_drops(execution.rules, names)
    check_parties(execution.resources, [party.name for party in planned.parties])
    if run.runtime.ray == "local":
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        check_machine(planned.steps, execution.resources, os.cpu_count() or 1, memory_gib)
    elif run.remote:
        from hyfree_ray.runners.ray_cluster import check_resources, check_rounds_are_seen

        workers = run.simulation.experiment.general_workers
        check_resources(run.runtime.device, workers, planned.steps, execution)
        check_rounds_are_seen(run.runtime.store / POOL / "rounds", execution.rules)


def _stages(planned: Planned, owner: str) -> list[str]:
    """Return all stages of a party, by their names and by their roles."""
    own = [step for step in planned.steps if step.owner == owner]
    return sorted({name for step in own for name in (step.name, step.stage)})


def estimate_cost(run: PlannedRun, *, training_s: float = 0.0) -> Cost:
    """Estimate what is left of a run.

    Args:
        run: the run.
        training_s: time each training on this machine for so long where no earlier run tells.

    Raises:
        HyfreeError: they would have to be timed on a GPU that is not here.
    """
    tried = calibrate_run(run, training_s) if training_s else {}
    return estimate(run.simulation, run.planned.steps, run.runtime.store, run.runtime.device, tried)


def estimate_before_start(run: PlannedRun) -> Cost:
    """Estimate what is left of a run that is about to start, by a calibration where nothing tells.

    A run of minutes, whose networks learn nothing, is not worth it.
    """
    cost = estimate_cost(run)
    known = cost.is_known or run.remote or run.simulation.experiment.budget.warning
    return cost if known else estimate_cost(run, training_s=_GLANCE_S)


def calibrate_run(run: PlannedRun, training_s: float) -> dict[str, float]:
    """Time a run's trainings on this machine for so long each, where no earlier run tells.

    Raises:
        HyfreeError: they would have to be timed on a GPU that is not here.
    """
    simulation, device = run.simulation, run.runtime.device
    known = read_history(run.runtime.store).seconds_per_unit(device)
    if not run.planned.missing or {"train_generator", "train_segmenter"} <= known.keys():
        return {}
    if device == "cuda" and find_device() != "cuda":
        raise HyfreeError(
            "cluster.no-local-gpu",
            "--calibrate: this machine does not have the cluster's GPUs; leave it out",
        )
    from hyfree_ray.scheduling.calibration import CALIBRATION_S, calibrate

    longest = min(CALIBRATION_S, 8 * training_s)
    log.info(f"calibrating: training on this machine for at most {longest:.0f} s")
    site = min(simulation.sites.values(), key=lambda site: site.training_images)
    return calibrate(site, simulation.experiment, device, training_s, longest)


def expecting(run: PlannedRun, cost: Cost) -> PlannedRun:
    """Return the run with what is expected of its stages."""
    return replace(run, expected_s=cost.seconds if cost.is_known else None)


def expected_wall_s(run: PlannedRun) -> float | None:
    """Return the seconds from a run's start to its end; None where nothing tells."""
    if run.expected_s is None:
        return None
    work = sum(run.expected_s[step.key] for step in run.planned.missing)
    paths = [one.critical_path for one in outlooks(run.planned.steps, run.expected_s).values()]
    return max(work / _parallel(run), max(paths, default=0.0))


def _parallel(run: PlannedRun) -> int:
    """Return how many stages can be expected to run at once."""
    if run.runtime.ray == "off":
        return 1
    parties = len(run.simulation.sites)
    return parties if run.remote else min(parties, os.cpu_count() or 1)


def _time_left(run: PlannedRun) -> TimeLeft:
    expected = run.expected_s or {}
    missing = run.planned.missing
    return TimeLeft(
        {(step.owner, step.key): expected.get(step.key) for step in missing},
        {(step.owner, step.key): step.stage for step in missing},
        _parallel(run),
    )


def warn_before(run: PlannedRun, cost: Cost) -> None:
    """Log what should be known of a run before it starts."""
    if not run.planned.missing:
        return
    for site in run.simulation.sites.values():
        if site.few_images_warning:
            log.warning(site.few_images_warning)
    left = run.planned.taking_part
    if len(left) < MIN_RELEASES:
        log.warning(nothing_to_share(left, withdrawn=set(run.simulation.sites) - set(left)))
    if cost.warning:
        log.warning(cost.warning)


def nothing_to_share(sites: Collection[str], withdrawn: Collection[str] = ()) -> str:
    """Describe what it means that a federation has one site, and how it gets more."""
    why = ""
    if withdrawn:
        withdraw = "withdraws" if len(withdrawn) == 1 else "withdraw"
        why = f", because {', '.join(sorted(withdrawn))} {withdraw} (for good, in this store)"
    return (
        f"{', '.join(sites)} is the only site{why}: nothing can be shared, so no general model is "
        f"trained or fine-tuned; a pool needs {MIN_RELEASES} sites: see --sites, --partition and "
        "sites.csv"
    )


def open_stores(run: PlannedRun) -> PlannedRun:
    """Open the store here, and where parties have machines of their own; keep what was measured.

    Returns:
        The run with how long each stage will take and what of a GPU, as the records there tell.
    """
    store, device, steps = run.runtime.store, run.runtime.device, run.planned.steps
    open_root(store)
    keep_precision(store, run.simulation.measured)
    if not run.planned.missing or run.runtime.ray == "off":
        return run
    elsewhere = RunHistory()
    if run.remote:
        from hyfree_ray.runners import ray_cluster

        elsewhere = ray_cluster.open_stores(store, run.simulation.sites)
    history = merge([read_history(store), elsewhere])
    known = history.seconds_per_unit(device)
    share = share_of_full_size(run.simulation.experiment.budget.plan)
    seconds = expected_seconds(steps, known, device, history.timings.keys(), share)
    execution = replace(
        run.execution, outlooks=outlooks(steps, seconds), gpu_shares=history.gpu_shares()
    )
    return replace(run, execution=execution)


def run_simulation(simulation: Simulation, runtime: Runtime, execution: Execution) -> Finished:
    """Plan, check and execute a simulation, whose runtime's cluster this process has joined.

    Raises:
        HyfreeError: it could never run, or what a stage refused.
        StageError: a stage broke.
        ClusterError: the cluster is gone.
    """
    run = plan_run(simulation, runtime, execution)
    cost = estimate_cost(run)
    warn_before(run, cost)
    return execute(open_stores(expecting(run, cost)))


def execute(run: PlannedRun) -> Finished:
    """Run what is missing and write the run's folder, unless this code has written it already.

    Args:
        run: its stores are open.

    Raises:
        HyfreeError: what a stage refused.
        StageError: a stage broke.
        ClusterError: the cluster is gone.
    """
    if not run.planned.missing and is_current(run.folder) and _shows_all(run):
        return read_finished(run.folder)
    mark_outdated(run.folder)  # what it says is wrong from the first stage that runs now
    simulation, runtime = run.simulation, run.runtime
    steps, console, rules = run.planned.steps, Console(stderr=True), run.execution.rules
    with Progress(
        simulation.party_names,
        len(steps),
        console,
        time_left=_time_left(run),
        scorings=sum(step.stage == "score" for step in steps),
    ) as progress:
        observer = Observer(simulation, runtime.store, progress)
        if not run.planned.missing:
            parties = {party.name: LocalParty(party) for party in run.planned.parties}
            asyncio.run(_observe(observer, parties, run, run.planned.outcome))
        elif runtime.ray == "off":
            runner = LocalRunner(runtime.device)
            parties = {
                name: LocalParty(
                    simulation.party(name, runtime.store, inject_faults(runner, rules, name))
                )
                for name in simulation.party_names
            }
            asyncio.run(_observe(observer, parties, run))
        else:
            _execute_on_ray(run, observer)
    return read_finished(run.folder)


def _shows_all(run: PlannedRun) -> bool:
    """Return whether a run's folder shows all its stages: another run may have added some.

    Also where something damaged it since: it is written again then.
    """
    try:
        stages = read_finished(run.folder).summary.stages
    except HyfreeError:
        return False
    shown = {(stage.owner, stage.key) for stage in stages}
    return shown.issuperset((step.owner, step.key) for step in run.planned.steps)


def _execute_on_ray(run: PlannedRun, observer: Observer) -> None:
    from hyfree_ray.runners.ray import cause_of
    from hyfree_ray.runners.ray_cluster import check_resources, while_the_head_answers
    from hyfree_ray.runners.ray_parties import start_parties

    simulation, runtime, execution = run.simulation, run.runtime, run.execution
    actors = len(simulation.party_names) + 1  # the scheduler
    with contextlib.nullcontext() if run.remote else connected("local", actors):
        if not run.remote:  # of another it was asked before
            workers = simulation.experiment.general_workers
            check_resources(runtime.device, workers, run.planned.steps, execution)
        try:
            parties = start_parties(simulation, runtime.store, runtime.device, execution)
            asyncio.run(while_the_head_answers(_observe(observer, parties, run)))
        except Exception as error:
            raise cause_of(error) from error


async def _observe(
    observer: Observer,
    parties: Mapping[str, Handle],
    run: PlannedRun,
    outcome: protocol.Outcome | None = None,
) -> None:
    """Run the protocol (unless its outcome is known) while the observer watches."""
    if outcome is None:
        watching = asyncio.ensure_future(observer.watch(parties))
        try:
            outcome = await protocol.simulate(
                parties,
                settings=run.simulation.experiment.settings,
                rules=run.execution.rules,
                contributors=run.simulation.contributors,
                report=observer.progress.report,
            )
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    await observer.poll(parties, last=True)
    await write_run(run.folder, run.simulation, observer.observed, outcome, parties)
    observer.show(run.folder)
