"""Toy stages for the real protocol: deterministic, checkpointed, and over in a moment.

`install` puts a toy in the place of every stage, in whatever process calls it. A toy hashes its
parameters and its inputs' values (of raw data, every file of its cases), step by step from its
newest checkpoint on, so that what was resumed wrongly, or read from a damaged file, ends in another
table. It imports torch where a stage
runs and nowhere else, as stages do.

Run as a program it is the command line with toys: `python -m tests.toys simulate ...`
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pkgutil
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hyfree_ray import stages
from hyfree_ray.border.public_labels import write_labels
from hyfree_ray.border.release import ReleaseMetadata, write_release
from hyfree_ray.commands import folds, simulate
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.execution import execute
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.stage import Context, Stage, stage
from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.scores import write_results
from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules
from hyfree_ray.scheduling import calibration
from hyfree_ray.studies import trials
from tests.cards import card

STEPS = 4
"""Checkpoints of a training."""

STEP_S = "TOY_STEP_S"
"""Environment variable: seconds that a step takes. Workers of a cluster inherit it."""

BREAK = "TOY_BREAK"
"""Environment variable: STAGE@OWNER: text; that party's stage breaks with this text. With ! for
the colon it refuses, which is an error that a user can fix."""

BALLAST_MIB = "TOY_BALLAST_MIB"
"""Environment variable: MiB of ballast in each model; MIB@OWNER: in those of that party."""

LARGE_RELEASE = "TOY_LARGE_RELEASE"
"""Environment variable: the site whose release is of `LARGE_IMAGES`."""

LARGE_IMAGES = 10_000
"""11 MB of noise."""

WITHHOLDS = "TOY_WITHHOLDS"
"""Environment variable: the site whose gate is closed."""

_TRAININGS = ("train_generator", "train_segmenter", "synthesise", "train_general")

_SHOWN: dict[str, Any] = {
    "outcome": "released",
    "reason": None,
    "rejection_rate": 0.25,
    "images": 5,
    "training_images": 3,
    "synthetic": 3,
    "snapshot": "1.safetensors",
    "derivation": ["a toy"],
    "patch_size": [32, 24],
    "spacing": [1.0, 1.5],
    "strides": [[1, 1]],
    "batch_size": 2,
    "mean": 0.5,
    "flag": None,
}
"""What the protocol and the observer read of any stage's result."""


def install() -> None:
    """Put toys in the place of all stages, those of a study's simulations too."""
    trials.run_trial = run_trial
    for command in (simulate, folds):  # a page of what no network has learned
        command.write_run_report = lambda *_: None
    calibration.calibrate = lambda *_: {}  # it would train a real network
    # A toy model is none that could be tried, and a toy imports neither torch nor nnU-Net.
    tried: Any = SimpleNamespace(try_parcel=lambda *_: None)
    sys.modules["hyfree_ray.segmenters.nnunet.trial"] = tried
    for found in pkgutil.iter_modules(stages.__path__):
        module = importlib.import_module(f"{stages.__name__}.{found.name}")
        for name, value in vars(module).items():
            if isinstance(value, Stage) and value.module == module.__name__:
                object.__setattr__(value, "function", functools.partial(toy, name))


_run_trial = trials.run_trial


def run_trial(*arguments: Any) -> str:
    """A study's simulation, in its process."""
    install()
    return _run_trial(*arguments)


def toy(name: str, context: Context, **arguments: Any) -> dict[str, Any]:
    """Stands for the stage `name`."""
    out = context.out
    if name == "release" and os.environ.get(WITHHOLDS) == context.owner:
        return {**_SHOWN, "outcome": "withheld", "reason": "its gate is closed", "images": 0}
    asked = re.match(r"(\S+)([:!]) (.+)", os.environ.get(BREAK, ""))
    if asked and asked[1] == f"{name}@{context.owner}":
        raise HyfreeError("data.not-found", asked[3]) if asked[2] == "!" else ValueError(asked[3])
    params = {key: value for key, value in arguments.items() if not isinstance(value, Path)}
    inputs = {
        key: _value_of(path, params.get("cases", ()))
        for key, path in arguments.items()
        if isinstance(path, Path)
    }
    start = digest_of([name, params, inputs])
    workers = params.get("workers", 1)
    if workers > 1 and context.launch is not None:
        context.launch(work, {"out": str(out), "start": start}, workers, out)
        value = (out / "value").read_text()
    else:
        value = climb(context, start) if name in _TRAININGS else start
        time.sleep(float(os.environ.get(STEP_S, "0.002")))
    for file in ("toy.json", "model/toy.json"):
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_text(json.dumps(value))
    ballast, _, whose = os.environ.get(BALLAST_MIB, "0").partition("@")
    if int(ballast) and whose in {"", context.owner}:
        (out / "model" / "ballast").write_bytes(os.urandom(int(ballast) << 20))
    if name == "label_public":
        _write_labels(out, value, arguments)
    if name == "release":
        large = os.environ.get(LARGE_RELEASE) == context.owner
        _write_release(out, value, arguments, images=LARGE_IMAGES if large else 5)
    for picture in ("samples.png", "nearest_pairs.png"):
        (out / picture).write_bytes(b"\x89PNG")
    rows = _rows(value, params.get("cases", ())) if name == "score" else []
    return {**_SHOWN, "nonce": start, "sha256": start, "rows": rows, "node": _node()}


def _node() -> str | None:
    """The cluster's node that this process is of."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else None


def climb(context: Context, start: str) -> str:
    """From the newest checkpoint to the last step."""
    import torch

    from hyfree_ray.core.checkpoints import load_checkpoint, save_checkpoint

    folder = context.out / "checkpoints"
    found = load_checkpoint(folder)
    step, value = (0, start) if found is None else (found[0], str(found[1]["value"]))
    while step < STEPS:
        time.sleep(float(os.environ.get(STEP_S, "0.002")))
        step, value = step + 1, digest_of([value, step])
        context.progress(step, STEPS, {"value": int(value[:4], 16)})
        save_checkpoint(folder, step, {"value": value, "ballast": torch.zeros(10_000)})
        context.saved(step, STEPS)
    return value


def work(*, out: str, start: str, device: str, report: Any) -> None:
    """One worker of a distributed toy: rank 0 climbs, the others keep step with it."""
    from torch import distributed

    from hyfree_ray.core.checkpoints import load_checkpoint, save_checkpoint

    rank = distributed.get_rank()
    (Path(out) / f"rank-{rank}.pid").write_text(str(os.getpid()))
    folder = Path(out) / "checkpoints"
    found = load_checkpoint(folder)
    step, value = (0, start) if found is None else (found[0], str(found[1]["value"]))
    context = Context(out=Path(out), owner="pool", device=device)
    while step < STEPS:
        time.sleep(float(os.environ.get(STEP_S, "0.002")))
        step, value = step + 1, digest_of([value, step])
        if rank == 0:
            context.progress(step, STEPS, {"value": 0.0})
            save_checkpoint(folder, step, {"value": value})
        distributed.barrier()
        report(step)
    if rank == 0:
        (Path(out) / "value").write_text(value)


def _value_of(folder: Path, cases: Sequence[Mapping[str, Any]]) -> str:
    """A hash of what another toy or party has made, or else of raw data: of all named cases."""
    for name in ("toy.json", "model/toy.json", "release.arrow", "labels.bin"):
        if (folder / name).exists():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    found = hashlib.sha256()
    for case in cases:
        for name in (*case["images"], case["label"]):
            found.update((folder / name).read_bytes())
    return found.hexdigest()


def _write_release(out: Path, value: str, arguments: Mapping[str, Any], images: int = 5) -> None:
    """A release that would pass every check, of noise."""
    random = np.random.default_rng(int(value[:8], 16))
    metadata = ReleaseMetadata(
        site=arguments["site"],
        channel_names=tuple(arguments["dataset"]["channel_names"].values()),
        label_names=dict(arguments["dataset"]["labels"]),
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=card(images=images),
    )
    write_release(
        out,
        metadata,
        random.integers(0, 256, (images, 1, 20, 28), dtype=np.uint8),
        random.integers(0, 2, (images, 20, 28), dtype=np.uint8),
        experiment=arguments["federation"],
        nonce=value[:32],
    )


def _write_labels(out: Path, value: str, arguments: Mapping[str, Any]) -> None:
    """Labels of public images that would pass every check."""
    random = np.random.default_rng(int(value[:8], 16))
    write_labels(
        out,
        random.integers(0, 2, (arguments["images"], 20, 28), dtype=np.uint8),
        site=arguments["site"],
        experiment=arguments["federation"],
        **arguments["addressee"],
        spacing=(2.0, 1.5),
        slice_axis=0,
        label_names=dict(arguments["dataset"]["labels"]),
    )


def _rows(value: str, cases: Any) -> list[dict[str, Any]]:
    rows, metrics = [], METRICS.names()
    for case in cases:
        number = int(digest_of([value, case["index"]])[:6], 16) / 2**24
        about = {"patient": case["patient"], "case": case["index"], "label": "organ"}
        measured = {name: (k + 1) * number for k, name in enumerate(metrics)}
        rows.append({**about, **measured, "outcome": "scored"})
    return rows


def toy_experiment() -> Experiment:
    """The smoke budget."""
    experiment, _ = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", overrides=["precision=fp32"]
    )
    return experiment


def toy_simulation(sites: int = 3) -> Any:
    """Uneven sites: the phantom's, of which no image is ever drawn."""
    from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
    from hyfree_ray.federation.simulation import Simulation, sites_of

    cohort = phantom_cohort(sites, 0, Path("nowhere"))
    drawn = {
        name: {"index": int(name[5:]), "seed": 0, "phantom": PHANTOM_VERSION}
        for name in cohort.sites
    }
    return Simulation(
        cohort="Toys", sites=sites_of(cohort, 0, phantom=drawn), experiment=toy_experiment()
    )


def program(*arguments: str) -> None:
    """The command line with toys; the exit code is the process's."""
    install()
    from hyfree_ray.cli import main

    main(list(arguments))


def federate_on(data: str, store: str, table: str) -> None:
    """A run in this process on a data set, with toys, and its table."""
    install()
    from hyfree_ray.cohorts.cohort import read_cohort
    from hyfree_ray.federation.simulation import Simulation, sites_of

    cohort = read_cohort(Path(data))
    sites = sites_of(cohort, 0)
    simulation = Simulation(cohort=cohort.name, sites=sites, experiment=toy_experiment())
    _run(simulation, store, table, settings=("personalised",))


def federate(
    store: str,
    die_after: int | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    **rules: Any,
) -> None:
    """A whole run in this process, and its table as `table.csv` in the store.

    Args:
        store: the store's root.
        die_after: SIGKILL this process when so many stages were run.
        settings: what is trained beside the protocol.
        seed: of the experiment.
        rules: fields of `Rules`.
    """
    install()
    simulation = toy_simulation()
    experiment = simulation.experiment.model_copy(update={"seed": seed})
    simulation = dataclasses.replace(simulation, experiment=experiment)
    _run(simulation, store, f"{store}/table.csv", die_after, Rules(**rules), settings)


def _run(
    simulation: Any,
    store: str,
    table: str,
    die_after: int | None = None,
    rules: Rules | None = None,
    settings: Sequence[str] = (),
) -> None:
    from hyfree_ray.federation.simulation import score_rows
    from hyfree_ray.runners.fault_injection import inject_faults
    from hyfree_ray.runners.local import LocalParty, LocalRunner

    class Runner(LocalRunner):
        ran = 0

        async def run(self, *arguments: Any) -> None:
            await super().run(*arguments)
            self.ran += 1
            if self.ran == die_after:
                os.kill(os.getpid(), signal.SIGKILL)

    rules, runners = rules or Rules(), {name: Runner("cpu") for name in ("all", "slow")}
    parties = {
        # A site that is told to be slow has a machine of its own.
        name: LocalParty(
            simulation.party(
                name,
                Path(store),
                inject_faults(
                    runners["slow" if name in rules.fault_injections else "all"], rules, name
                ),
            )
        )
        for name in simulation.party_names
    }
    running = protocol.simulate(parties, settings=settings, rules=rules, report=say)
    outcome = asyncio.run(running)
    sites = {name: dataclasses.asdict(receipt) for name, receipt in outcome.sites.items()}
    say(json.dumps({"round": outcome.round, "sites": sites, "chosen": outcome.chosen}))
    write_results(Path(table), score_rows(simulation, outcome))


def say(line: str) -> None:
    """Standard output is a stage's own while one runs."""
    print(line, file=sys.stderr, flush=True)


def train_once(folder: str, jumps: Sequence[float] = ()) -> None:
    """One toy training, as a runner calls it, under a clock that jumps by so many seconds."""
    install()
    clock, left = time.time, iter(jumps)
    time.time = lambda: clock() + next(left, 0.0)
    from hyfree_ray.stages.training import train_generator

    call = train_generator.call(
        prepared=Artifact(stage="prepare", key="p" * 64, path=Path("nowhere")),
        generator={"name": "flow", "config": {}},
        images_shown=4,
        snapshots=1,
        mirror=False,
        precision="fp32",
        seed=1,
    )
    execute(train_generator.module, call, Path(folder), owner="site-1", device="cpu")


@stage(version=1)
def write_much(context: Context, *, what: str) -> dict[str, Any]:
    """A release of over 50,000 bytes, or a result of as many."""
    if what == "record":
        return {"numbers": list(range(15_000))}
    dataset = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}}
    about = {"site": "site-1", "dataset": dataset, "federation": "f"}
    _write_release(context.out, "1" * 64, about, images=90)
    return {}


def keep_much(folder: str, what: str) -> None:
    """A stage that writes much, as a runner calls it."""
    call = write_much.call(what=what)
    execute(write_much.module, call, Path(folder), owner="site-1", device="cpu")


if __name__ == "__main__":
    os.environ["__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"] = "tests.toys.install"
    importlib.import_module("tests.toys").program(*sys.argv[1:])
