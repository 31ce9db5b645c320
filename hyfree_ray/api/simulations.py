"""A simulation, from Python."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hyfree_ray.api.runs import Run
from hyfree_ray.cohorts.partitions import NATURAL
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.config.loading import as_override
from hyfree_ray.core.files import mask_kept
from hyfree_ray.core.store_root import DEFAULT_STORE, STORE_VARIABLE
from hyfree_ray.federation.participation import parse_rules
from hyfree_ray.results.finished import Finished
from hyfree_ray.runners.resolve import SimulationOptions, resolve_device, resolve_simulation
from hyfree_ray.runners.run import joined, run_simulation
from hyfree_ray.scheduling.resources import Execution, read_resources

_Result = TypeVar("_Result")


def simulate(
    *,
    sites: int | None = None,
    data: str | Path | None = None,
    phantom: str | None = None,
    partition: str = NATURAL,
    config: str | Path | None = None,
    budget: str | None = None,
    generator: str | None = None,
    pairing: str | None = None,
    precision: str | None = None,
    segmenter: str | None = None,
    metrics: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    set: Mapping[str, Any] | None = None,
    fold: int | None = None,
    seed: int | None = None,
    store: str | Path | None = None,
    ray: str = "local",
    device: str = "auto",
    min_sites: int | None = None,
    deadline: str | None = None,
    next_round: bool = False,
    withdraw: Sequence[str] = (),
    drop: Sequence[str] = (),
    slow: Sequence[str] = (),
    contributors: Sequence[str] = (),
) -> Run:
    """Run the method on simulated hospitals; what is done already is not run again.

    The arguments are the options of `hyfree-ray simulate`, by the same names and with the same
    defaults.

    Example:
        >>> run = simulate(sites=5, set={"budget.unet.epochs": 40})  # doctest: +SKIP
        >>> run.contrasts  # doctest: +SKIP

    Args:
        sites: hospitals; None: those of the data or of the phantom.
        data: an nnU-Net raw data set with a `sites.csv`; None: phantom sites.
        phantom: which phantom is drawn without data: `abdomen` or `brain`.
        partition: `natural` (sites.csv), `random`, `size-skew`, `dirichlet` or `column:NAME`.
        config: YAML file with fields of the experiment.
        budget: `smoke`, `small` or `paper`; None: small on a CPU, paper on a GPU.
        generator: a generator's name, or `auto`.
        precision: `fp32`, `bf16` or `auto`, which is measured once a store.
        pairing: "labelled", "joint" or "conditional": how images come by masks; None: labelled.
        segmenter: the architecture inside nnU-Net's training; None: nnU-Net's own.
        metrics: what to measure beside the project's own, of other packages or registered.
        settings: what to train beside the protocol, for comparison; None: the default ones.
        set: fields of the experiment by name with dots, as `--set` takes them.
        fold: the test fold; None: 0.
        seed: of everything; None: 0.
        store: where everything is kept; None: $HYFREE_STORE, or `hyfree-store`.
        ray: `local`, `off` (in this process), or a cluster's address.
        device: `auto`, `cpu` or `cuda`.
        min_sites: go on without sites that fail or are late, with at least so many releases.
        deadline: close the round after, e.g., `90m` or `8h`.
        next_round: take in the releases that came late.
        withdraw: sites without which to rebuild.
        drop: `SITE@STAGE`: simulate that it drops out there.
        slow: `SITE=3x`: simulate a straggler.
        contributors: sites whose releases are pooled; empty: all.

    Raises:
        HyfreeError: what is wrong with the arguments or the data, in one line.
        StageError: a stage broke; its log is named.
    """
    options = SimulationOptions(
        sites=sites,
        data=None if data is None else Path(data),
        phantom=phantom,
        partition=partition,
        config=None if config is None else Path(config),
        budget=budget,
        generator=generator,
        precision=precision,
        pairing=pairing,
        segmenter=segmenter,
        metrics=None if metrics is None else tuple(metrics),
        settings=None if settings is None else tuple(settings),
        fold=fold,
        seed=seed,
        overrides=tuple(as_override(name, value) for name, value in (set or {}).items()),
        contributors=tuple(contributors),
    )
    folder = Path(store or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE).absolute()

    def run() -> Finished:
        with mask_kept(), joined(ray):
            runtime = Runtime(store=folder, ray=ray, device=resolve_device(device, ray))
            simulation = resolve_simulation(options, runtime)
            rules = parse_rules(
                sites=list(simulation.sites),
                min_sites=min_sites,
                deadline=deadline,
                next_round=next_round,
                withdraw=withdraw,
                drop=drop,
                slow=slow,
            )
            execution = Execution(rules=rules, resources=read_resources(options.config))
            return run_simulation(simulation, runtime, execution)

    return Run(_outside_of_loops(run))


def _outside_of_loops(function: Callable[[], _Result]) -> _Result:
    """Call a function that runs an event loop, also where one runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(function).result()
