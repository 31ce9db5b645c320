"""Measure how fast this machine trains, in under a minute: a few steps of each training.

The trainings run in a process of their own, which may be ended at any time: whoever plans a run
imports no torch, and a machine that is too slow to say anything in time says nothing.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.execution import single_threaded
from hyfree_ray.core.files import write_json
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.hospital import Site
from hyfree_ray.generators.pairing import draws_masks

CALIBRATION_S = 60.0
"""Nothing is timed for longer, imports and preparation included, where it was asked for."""

TRAINING_S = 15.0
"""Of each training."""

CASES = 24
"""Of the site that are planned on and trained with: the network is that of the run, or nearly."""

_FOUND_FILE = "seconds_per_unit.json"


class _EnoughError(Exception):
    """The training has run for long enough."""


@dataclass(frozen=True, kw_only=True)
class _Timed(Context):
    """Notes when steps were reported, and ends the stage when it has seen enough."""

    training_s: float
    reports: list[tuple[int, float]] = field(default_factory=list)

    def progress(self, step: int, total: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        self.reports.append((step, time.monotonic()))
        if len(self.reports) > 2 and time.monotonic() - self.reports[0][1] > self.training_s:
            raise _EnoughError

    def seconds_a_step(self) -> float | None:
        """After the first report, which came late: everything was new then."""
        if len(self.reports) < 2:
            return None
        (first, begun), (last, ended) = self.reports[0], self.reports[-1]
        return (ended - begun) / (last - first)


def calibrate(
    site: Site,
    experiment: Experiment,
    device: str,
    training_s: float = TRAINING_S,
    longest_s: float = CALIBRATION_S,
) -> dict[str, float]:
    """Measure seconds a unit of work of each kind of training, as `history.work_of` counts it.

    Args:
        site: on a few of whose cases it is tried.
        experiment: the settings.
        device: "cpu" or "cuda".
        training_s: how long each training is tried.
        longest_s: how long all of it may take, imports and preparation included.

    Returns:
        By stage; without those that said nothing in time.
    """
    with tempfile.TemporaryDirectory(prefix="hyfree-calibration-") as folder:
        process = multiprocessing.get_context("spawn").Process(
            target=_try_out, args=(site, experiment, device, Path(folder), training_s)
        )
        process.start()
        process.join(longest_s)
        if process.is_alive():
            process.kill()
            process.join()
        try:
            found: dict[str, float] = json.loads((Path(folder) / _FOUND_FILE).read_text())
        except FileNotFoundError:
            return {}
    return found


def _try_out(
    site: Site, experiment: Experiment, device: str, folder: Path, training_s: float
) -> None:
    """Prepare a few cases, train each kind of network for a while, and note how fast it was."""
    found: dict[str, float] = {}
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        single_threaded(device),
    ):
        prepared = _prepare(site, experiment, folder)
        for stage, train in (
            ("train_segmenter", _train_segmenter),
            ("train_generator", _train_generator),
        ):
            context = _Timed(
                out=folder / stage, owner=site.name, device=device, training_s=training_s
            )
            context.out.mkdir()
            with contextlib.suppress(_EnoughError):
                train(context, prepared, experiment)
            per_step = context.seconds_a_step()
            if per_step is not None:
                found[stage] = per_step / (_ITERATIONS if stage == "train_segmenter" else 1)
                write_json(folder / _FOUND_FILE, found)


def _prepare(site: Site, experiment: Experiment, folder: Path) -> Path:
    from hyfree_ray.stages.data import draw_phantom, prepare

    data = site.folder or folder / "data"
    if site.phantom is not None:
        data.mkdir()
        draw_phantom(Context(out=data, owner=site.name), **site.phantom)
    context = Context(out=folder / "prepared", owner=site.name)
    context.out.mkdir()
    prepare(
        context,
        data=data,
        cases=[*site.part("train")[: CASES * 3 // 4], *site.part("val")[: CASES // 4]],
        dataset=site.dataset,
        caps=experiment.budget.plan.model_dump(),
        masks=draws_masks(experiment.generator.pairing),
    )
    return context.out


_ITERATIONS = 4
"""An epoch of the calibration, with one validation batch: nnU-Net has fifty for 250."""


def _train_segmenter(context: Context, prepared: Path, experiment: Experiment) -> None:
    from hyfree_ray.stages.training import train_segmenter

    train_segmenter(
        context,
        role="local",
        segmenter=experiment.segmenter,
        prepared=prepared,
        epochs=1000,
        iterations=_ITERATIONS,
        validation_iterations=1,
        optimiser=experiment.budget.unet.optimiser,
        warmup=0.0,
        precision=experiment.precision,
        seed=0,
    )


def _train_generator(context: Context, prepared: Path, experiment: Experiment) -> None:
    from hyfree_ray.stages.training import train_generator

    train_generator(
        context,
        prepared=prepared,
        generator=experiment.generator.model_dump(),
        images_shown=10_000_000,
        snapshots=1,
        mirror=experiment.mirror,
        precision=experiment.precision,
        seed=0,
    )
