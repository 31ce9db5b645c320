"""In which precision each network trains faster on this processor, and whether `auto` is right.

    python benchmarks/precision.py [--quick] [--width 128]

Every generator at the width of the `small` budget and every segmenter at its plan, on a drawn
hospital's images: training steps in fp32 and in bf16 in turn, one thread, by their CPU seconds, so
that what else the machine does hits both; ratios are medians of the pairs. `--width` is another one
for all generators. The last line is for scripts; where `auto` chooses what is slower for a network,
it names that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout, not installed

from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.config.budget import Budget, budget_values
from hyfree_ray.core.precision import PrecisionChoice, measure_cpu
from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.segmenters import SEGMENTERS
from hyfree_ray.segmenters.nnunet.data import RawCase, nnunet_environment, plan_and_preprocess
from hyfree_ray.segmenters.nnunet.on_cpu import limited_once
from hyfree_ray.segmenters.nnunet.train import ResumableTrainer, Schedule, make_trainer
from hyfree_ray.segmenters.unet_plan import UNetPlan

PRECISIONS = ("fp32", "bf16")
TOLERANCE = 1.05
"""A choice that is slower by more than this is called wrong."""

Steps = Callable[[], int]
"""Trains for a while; how many images, or batches of a segmenter, that was."""


def generators(unet: UNetPlan, width: int | None) -> Iterator[tuple[str, dict[str, Steps]]]:
    """Every generator of the project in both precisions; StyleGAN2's lazy parts come up as due."""
    for generator in GENERATORS.built_in():
        config = generator.at("small")
        if width is not None:
            config = config.model_copy(update={"max_channels": width})
        plan = generator.derive(unet, config)
        name = f"{generator.name}, width {config.max_channels}, s/kimg"
        yield name, {p: _generator_steps(generator.load(), plan, p) for p in PRECISIONS}


def _generator_steps(backend, plan, precision: str) -> Steps:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    compute = compute_of("cpu", precision)
    learner = backend.learner(plan, compute, images_shown=1_000_000)
    images_NCHW = torch.rand(learner.batch_size, plan.channels, *plan.patch_size) * 2 - 1
    images_NCHW = learner.prepare(images_NCHW)
    random = torch.Generator().manual_seed(0)
    steps = math.lcm(loss.PATH_EVERY, loss.R1_EVERY)

    def run() -> int:
        for step in range(steps):
            learner.step(images_NCHW, step, random)
        return steps * learner.batch_size

    return run


def prepared_site(folder: Path, budget: Budget) -> Path:
    """Draw a hospital and prepare its cases at a budget."""
    data, root = folder / "data", folder / "prepared"
    draw_phantom_site(1, 0, data)
    cases = [
        RawCase(
            name=label.name.removesuffix(".nii.gz"),
            images=(data / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz"),),
            label=label,
        )
        for label in sorted((data / "labelsTr").iterdir())
    ]
    dataset = json.loads((data / "dataset.json").read_text())
    validation = [case.name for case in cases[::5]]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # nnU-Net's
        plan_and_preprocess(root, cases, dataset, budget.plan, validation=validation)
    return root


def segmenters(prepared: Path, folder: Path) -> Iterator[tuple[str, dict[str, Steps]]]:
    """Every architecture of the project in both precisions, with its augmentation."""
    for segmenter in SEGMENTERS.built_in():
        made = {p: _trainer(segmenter.name, prepared, folder / p, p) for p in PRECISIONS}
        yield (
            f"{segmenter.name}, s/100 batches",
            {precision: _segmenter_steps(trainer) for precision, trainer in made.items()},
        )


def _trainer(name: str, prepared: Path, folder: Path, precision: str) -> ResumableTrainer:
    length = Schedule(epochs=1000, iterations=1, validation_iterations=1, precision=precision)
    trainer = make_trainer(
        ResumableTrainer,
        prepared,
        folder,
        schedule=length,
        seed=0,
        device="cpu",
        report=lambda *_: None,
        segmenter=name,
    )
    trainer.on_train_start()
    return trainer


def _segmenter_steps(trainer: ResumableTrainer) -> Steps:
    batches = 10

    def run() -> int:
        trainer.network.train()
        for _ in range(batches):
            trainer.train_step(next(trainer.dataloader_train))
        return batches

    return run


def compare(name: str, steps: dict[str, Steps], turns: int) -> float:
    """Print what a unit of work takes in both precisions; how many times as fast bf16 is."""
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for turn in range(turns + 1):
        for precision in PRECISIONS:
            start = time.process_time()
            done = steps[precision]()
            if turn:  # the first is a warm-up
                seconds[precision].append((time.process_time() - start) / done)
    scale = 100 if "batches" in name else 1000
    fp32, bf16 = (statistics.median(seconds[precision]) * scale for precision in PRECISIONS)
    gain = float(np.median(np.divide(seconds["fp32"], seconds["bf16"])))
    print(f"{name}: {fp32:.2f} in fp32, {bf16:.2f} in bf16: {gain:.2f}x", flush=True)
    return gain


def wrong_for(precision: str, gains: Mapping[str, float]) -> list[str]:
    """The networks for which a choice is clearly slower; `gains` are bf16's."""
    sign = 1 if precision == "bf16" else -1
    return [name for name, gain in gains.items() if gain**sign * TOLERANCE < 1]


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few turns: within 90 CPU seconds")
    parser.add_argument("--width", type=int, help="channels at most of all generators")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget.model_validate(budget_values("small"))
    choice = PrecisionChoice.of([measure_cpu()])
    for one in choice.machines[0].convolutions:
        rates = f"{one.fp32:.0f} in fp32, {one.bf16:.0f} in bf16"
        print(f"convolution, {one.channels} channels, GF/s: {rates}")
    print(f"auto takes {choice.precision}: {choice.reason}")
    gains = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepared = prepared_site(folder, budget)
        unet = UNetPlan.read(prepared)
        stack.enter_context(limited_once())
        stack.enter_context(nnunet_environment(prepared, results=folder / "results", augmenters=0))
        networks = [*generators(unet, arguments.width), *segmenters(prepared, folder)]
        for name, steps in networks:
            gains[name.split(",")[0]] = compare(name, steps, 2 if arguments.quick else 7)
    wrong = wrong_for(choice.precision, gains)
    print(
        " ".join(f"{name}={gain:.2f}" for name, gain in gains.items())
        + f" convolution={choice.machines[0].gain:.2f} auto={choice.precision} "
        + f"wrong={','.join(wrong) or 'none'}"
    )


if __name__ == "__main__":
    main()
