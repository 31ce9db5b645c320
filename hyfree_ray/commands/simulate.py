"""`hyfree-ray simulate`: from options to a finished run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.partitions import NATURAL, partition
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.cohorts.summary import render_sites
from hyfree_ray.commands.announce import announce, print_plan
from hyfree_ray.commands.check import digest_cache, notes, reading_bar
from hyfree_ray.commands.ending import is_told, leave
from hyfree_ray.config.experiment import (
    Experiment,
    Runtime,
    check_embedder,
    find_device,
    resolve_experiment,
)
from hyfree_ray.core.errors import ClusterError, HyfreeError, StageError
from hyfree_ray.core.log import set_up_logging
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.store import open_root
from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules, check_drops, parse_rules
from hyfree_ray.federation.pool import FEWEST_RELEASES
from hyfree_ray.federation.simulation import Simulation, sites_of
from hyfree_ray.observing.observer import Observer, read_summary, time_table
from hyfree_ray.observing.progress import IN_WORDS, Progress, clock
from hyfree_ray.results.finished import is_current, mark_outdated, read_finished
from hyfree_ray.results.summary import Summary
from hyfree_ray.results.table import render_table, wide_console
from hyfree_ray.runners.disturbed import disturbed
from hyfree_ray.runners.local import LocalParty, LocalRunner
from hyfree_ray.runners.planning import Planned, plan
from hyfree_ray.scheduling.estimates import estimate
from hyfree_ray.scheduling.history import (
    Experience,
    expected_seconds,
    experience_of,
    outlooks,
    together,
)
from hyfree_ray.scheduling.resources import Execution, check_machine, check_parties, read_resources

log = logging.getLogger("hyfree_ray")


def run_simulate(**options: Any) -> int:
    """Run the command; see `simulate` for the options. Returns the exit code."""
    try:
        return _simulate(**options)
    except ClusterError as error:
        leave(f"error: {error}", error.exit_code)
    except _FailedError as failed:
        leave(f"error: {failed.__cause__}", failed.code)


class _FailedError(Exception):
    """A run failed after stages were started. Its cause is one line to print."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _simulate(
    *,
    sites: int | None,
    data: Path | None,
    how: str,
    config: Path | None,
    budget: str | None,
    generator: str | None,
    fold: int | None,
    seed: int | None,
    settings: tuple[str, ...] | None,
    contributors: tuple[str, ...],
    store: Path,
    ray: str,
    device: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    calibrate: bool,
    output: str,
    log_format: str | None,
    **rule_options: Any,
) -> int:
    set_up_logging(log_format or output)
    if calibrate and not dry_run:
        raise HyfreeError("--calibrate: it tells how long a plan would take; add --dry-run")
    with _connected(ray) if ray not in {"local", "off"} else contextlib.nullcontext():
        runtime = Runtime(store=store.absolute(), ray=ray, device=_device(device, ray))
        experiment, reasons = resolve_experiment(
            budget=budget,
            generator=generator,
            device=runtime.device,
            file=config,
            overrides=overrides,
            fold=fold,
            seed=seed,
            settings=settings,
        )
        check_embedder(experiment)
        if ray == "off" and experiment.general_workers > 1:
            raise HyfreeError(
                f"general_workers={experiment.general_workers} needs Ray; take --ray local or 1"
            )
        open_root(runtime.store, create=False)
        cohort, found = _sites(data, how, sites, experiment, runtime.store, output)
        simulation = Simulation(
            cohort=cohort,
            sites=found,
            experiment=experiment,
            partition=how,
            contributors=_contributors(contributors, found),
            reasons=tuple(reasons),
        )
        rules = parse_rules(sites=list(found), **rule_options)
        execution = Execution(rules=rules, resources=read_resources(config))
        planned = plan(simulation, runtime.store, rules)
        _check(planned, execution, runtime, experiment)
        simulation = replace(simulation, round=planned.outcome.round)
        tried = _calibrated(simulation, planned, runtime) if calibrate else {}
        cost = estimate(simulation, planned.steps, runtime.store, runtime.device, tried)
        announce(simulation, planned, cost, runtime, output)
        if dry_run:
            print_plan(planned, cost, execution.resources, runtime.device, output)
            return 0
        elsewhere = _open_stores(simulation, planned, runtime)
        if planned.missing and ray != "off":
            execution = _foreseen(execution, planned, runtime, elsewhere)
        summary = _run_or_leave(simulation, planned, runtime, execution)
    _print_results(summary, simulation, runtime, output)
    return 0


def _check(
    planned: Planned, execution: Execution, runtime: Runtime, experiment: Experiment
) -> None:
    """Refuse names that nothing has, and what could never start, before anything does."""
    if not planned.taking_part:
        raise HyfreeError(
            "--withdraw: with that all sites have withdrawn, and nothing is left to run; no "
            "withdrawal was noted now: leave a site in"
        )
    names = {site: _stages(planned, site) for site in execution.rules.disturbances}
    check_drops(execution.rules, names)
    check_parties(execution.resources, [party.name for party in planned.parties])
    if runtime.ray == "local":
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        check_machine(planned.steps, execution.resources, os.cpu_count() or 1, memory_gib)
    elif runtime.ray != "off":
        from hyfree_ray.runners.ray_cluster import check_resources, check_rounds_are_seen

        check_resources(runtime.device, experiment.general_workers, planned.steps, execution)
        check_rounds_are_seen(runtime.store / POOL / "rounds", execution.rules)


def _stages(planned: Planned, owner: str) -> list[str]:
    """All that a party is to do, by the names of stages and of the roles that they have."""
    own = [step for step in planned.steps if step.owner == owner]
    return sorted({name for step in own for name in (step.name, step.stage)})


def _calibrated(simulation: Simulation, planned: Planned, runtime: Runtime) -> dict[str, float]:
    """Time the trainings on this machine, where no earlier run tells."""
    known = experience_of(runtime.store).pace(runtime.device)
    if not planned.missing or {"train_generator", "train_segmenter"} <= known.keys():
        return {}
    if runtime.device == "cuda" and find_device() != "cuda":
        raise HyfreeError("--calibrate: the cluster's GPUs are not in this machine; leave it out")
    from hyfree_ray.scheduling.calibration import CALIBRATION_S, calibrate

    log.info(f"calibrating: training on this machine for at most {CALIBRATION_S:.0f} s")
    site = min(simulation.sites.values(), key=lambda site: site.training_images)
    return calibrate(site, simulation.experiment, runtime.device)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    from hyfree_ray.runners.ray_cluster import connect, disconnect

    connect(address)
    try:
        yield
    except ClusterError:
        raise  # there is nobody to take leave of
    except BaseException:
        disconnect()
        raise
    disconnect()


def _device(asked: str, ray: str) -> Any:
    if asked != "auto":
        return asked
    if ray in {"local", "off"}:
        return find_device()
    from hyfree_ray.runners.ray_cluster import cluster_device

    return cluster_device()


def _sites(
    data: Path | None,
    how: str,
    number: int | None,
    experiment: Experiment,
    store: Path,
    output: str,
) -> tuple[str, Mapping[str, Any]]:
    if data is None:
        if how != NATURAL:
            raise HyfreeError(f"--partition {how}: phantom sites are drawn apart; give --data")
        count = number or experiment.budget.phantom_sites
        cohort = phantom_cohort(count, experiment.seed, store)
        drawn = {
            name: {
                "index": int(name.removeprefix("site-")),
                "seed": experiment.seed,
                "phantom": PHANTOM_VERSION,
            }
            for name in cohort.sites
        }
        return cohort.name, sites_of(cohort, experiment.fold, phantom=drawn)
    with reading_bar() as told:
        cohort = read_cohort(
            data, digest_cache=digest_cache(store), own_sites=how == NATURAL, told=told
        )
    for note in notes(cohort.notes):
        log.warning(note)
    cohort = partition(cohort, how, sites=number, seed=experiment.seed)
    if output == "text":
        Console().print(render_sites(cohort))
    return cohort.name, sites_of(cohort, experiment.fold)


def _contributors(named: Sequence[str], sites: Collection[str]) -> tuple[str, ...]:
    """The named sites, sorted; empty where that is all of them, so that it is the same run."""
    for name in named:
        if name not in sites:
            raise HyfreeError(
                f"--contributors {name}: no such site; there are: {', '.join(sorted(sites))}"
            )
    if named and len(set(named)) < FEWEST_RELEASES:
        raise HyfreeError(f"--contributors: a pool needs {FEWEST_RELEASES} sites")
    return () if set(named) == set(sites) else tuple(sorted(set(named)))


def _open_stores(simulation: Simulation, planned: Planned, runtime: Runtime) -> Experience:
    """Open the store here, and where parties have machines of their own; what is told there."""
    open_root(runtime.store)
    if runtime.ray in {"local", "off"} or not planned.missing:
        return Experience()
    from hyfree_ray.runners.ray_cluster import open_stores

    return open_stores(runtime.store, simulation.sites)


def _foreseen(
    execution: Execution, planned: Planned, runtime: Runtime, elsewhere: Experience
) -> Execution:
    """With how long each stage will take and what of a GPU, by the records here and elsewhere."""
    told = together([experience_of(runtime.store), elsewhere])
    pace = told.pace(runtime.device)
    seconds = expected_seconds(planned.steps, pace, runtime.device, told.done.keys())
    return replace(
        execution, outlooks=outlooks(planned.steps, seconds), device_shares=told.shares()
    )


def _run_or_leave(
    simulation: Simulation, planned: Planned, runtime: Runtime, execution: Execution
) -> dict[str, Any]:
    """Run, and turn what fails on the way into an exit code."""
    try:
        return _run(simulation, planned, runtime, execution)
    except ClusterError:
        raise  # it is not the run that failed
    except HyfreeError as error:
        raise _FailedError(error.exit_code) from error
    except StageError as error:
        raise _FailedError(1) from error
    except Exception as error:
        if not is_told():  # or a library made this of the interrupt
            log.exception("this should not have happened; please report it")
        raise _FailedError(1) from error


def _run(
    simulation: Simulation, planned: Planned, runtime: Runtime, execution: Execution
) -> dict[str, Any]:
    """Run what is missing and write the run's folder, unless this code has written it already."""
    folder = runtime.store / "runs" / simulation.run
    if not planned.missing and is_current(folder) and _is_told(planned, folder):
        return read_summary(folder)
    mark_outdated(folder)  # what it says is wrong from the first stage that runs now
    console, rules = Console(stderr=True), execution.rules
    with Progress(simulation.party_names, len(planned.steps), console) as progress:
        observer = Observer(simulation, runtime.store, progress)
        if not planned.missing:
            parties = {party.name: LocalParty(party) for party in planned.parties}
            asyncio.run(_observe(observer, parties, rules, planned.outcome))
        elif runtime.ray == "off":
            runner = LocalRunner(runtime.device)
            parties = {
                name: LocalParty(
                    simulation.party(name, runtime.store, disturbed(runner, rules, name))
                )
                for name in simulation.party_names
            }
            asyncio.run(_observe(observer, parties, rules))
        else:
            _run_on_ray(simulation, planned, runtime, observer, execution)
    return read_summary(folder)


def _is_told(planned: Planned, folder: Path) -> bool:
    """Whether a run's folder tells of all its stages: another run may have done some since.

    Also where something damaged it since: it is written again then.
    """
    try:
        told = {(s["owner"], s["key"]) for s in read_finished(folder).described["stages"]}
    except (HyfreeError, KeyError, TypeError):
        return False
    return told.issuperset((step.owner, step.key) for step in planned.steps)


def _run_on_ray(
    simulation: Simulation,
    planned: Planned,
    runtime: Runtime,
    observer: Observer,
    execution: Execution,
) -> None:
    from hyfree_ray.runners.ray import cause_of, start_parties
    from hyfree_ray.runners.ray_cluster import check_resources, while_the_head_answers

    workers = simulation.experiment.general_workers
    with _connected("local") if runtime.ray == "local" else contextlib.nullcontext():
        if runtime.ray == "local":  # of another it was asked before
            check_resources(runtime.device, workers, planned.steps, execution)
        try:
            parties = start_parties(simulation, runtime.store, runtime.device, execution)
            watched = _observe(observer, parties, execution.rules)
            asyncio.run(while_the_head_answers(watched))
        except Exception as error:
            raise cause_of(error) from error


async def _observe(
    observer: Observer,
    parties: Mapping[str, protocol.Handle],
    rules: Rules,
    outcome: protocol.Outcome | None = None,
) -> None:
    """Run the protocol (unless its outcome is known) while the observer watches."""
    if outcome is None:
        watching = asyncio.ensure_future(observer.watch(parties))
        try:
            outcome = await protocol.simulate(
                parties,
                settings=observer.simulation.experiment.settings,
                rules=rules,
                contributors=observer.simulation.contributors,
                told=observer.progress.tell,
            )
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    await observer.poll(parties, last=True)
    await observer.finish(outcome, parties[POOL])


def _print_results(
    summary: Mapping[str, Any], simulation: Simulation, runtime: Runtime, output: str
) -> None:
    folder = runtime.store / "runs" / simulation.run
    uri = shlex.quote(f"sqlite:///{runtime.store}/mlflow.db")
    ui = f"mlflow ui --backend-store-uri {uri} --workers 1"
    if output == "json":
        click.echo(json.dumps({**summary, "folder": str(folder), "mlflow_ui": ui}))
        return
    wide_console().print(render_table(Summary.from_json(summary)))
    spent = time_table(summary["compute"])
    total = sum(seconds for _, seconds in spent)
    click.echo(f"\nwhere the time went (all parties together: {clock(total)})")
    for name, seconds in spent:
        words = IN_WORDS.get(name, name)
        click.echo(f"  {words:<32} {clock(seconds):>8}  {seconds / total:4.0%}")
    click.echo(f"files: {folder}")
    click.echo(ui)
