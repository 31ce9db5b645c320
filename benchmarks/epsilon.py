"""What differential privacy costs: Dice, copies and epsilon of a flow trained on one hospital.

    python benchmarks/epsilon.py [--phantom 1] [--epsilons 1,3,10,inf] [--channels 32]
        [--shown 60] [--batch 12] [--samples 200] [--store epsilon-store] [--out epsilon.jsonl]

The flow draws images with their masks, so that labels are inside the guarantee, too. A small U-Net
is trained on the samples alone and tested on real images of held-out patients; the first line is
what real images teach it. *Stopped* is the share of samples that the filter by registration takes
for copies, *nearest* the median correlation of a sample with its nearest training image, beside
that of held-out images. All numbers but Dice are after the generator; Dice is the mean of three
U-Nets.

Trainings are kept in the store and go on where they stopped; a line of `--out` is not made again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyfree_ray import generators
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.store_root import open_root
from hyfree_ray.evaluation.teaching import Labelled, taught_dice
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.detectors import Registration
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import quantise, restore
from hyfree_ray.runners.local import LocalRunner

TEACHINGS, STEPS = 3, 300
PERCENTILE = 5.0
HEADER = "epsilon  accounted  shown  steps  seconds  Dice (range)               stopped  nearest"


def phantom_site(index: int, folder: Path) -> Site:
    """A hospital of the phantom."""
    cohort = phantom_cohort(index, 0, folder)
    drawn = {
        f"site-{k}": {"index": k, "seed": 0, "phantom": PHANTOM_VERSION}
        for k in range(1, index + 1)
    }
    return sites_of(cohort, 0, phantom=drawn)[f"site-{index}"]


def settings(options: argparse.Namespace, epsilon: str) -> Experiment:
    """The `small` budget with a flow of this width, length and epsilon."""
    overrides = [
        f"generator.config.max_channels={options.channels}",
        f"generator.config.batch_size={options.batch}",
        f"budget.generator.images_shown_per_image={options.shown}",
        "budget.generator.min_images_shown=1",
        "budget.generator.snapshots=1",
    ]
    if epsilon != "inf":
        overrides.append(f"generator.config.epsilon={epsilon}")
    experiment, _ = resolve_experiment(
        budget="small", generator="flow", pairing="joint", device="cpu", overrides=overrides
    )
    return experiment


def sampled(trained: Artifact, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images_NCHW and masks_NHW of a training's last snapshot."""
    snapshot = trained.result["snapshots"][-1]
    drawn = list(
        generators.sample_with_masks(
            trained.path, snapshot, start=0, count=count, seed=0, device="cpu", precision="fp32"
        )
    )
    images_NCHW = np.concatenate([batch.images_NCHW for batch in drawn])
    masks = [batch.masks_NHW for batch in drawn if batch.masks_NHW is not None]
    return restore(quantise(images_NCHW)), np.concatenate(masks)


def taught(teacher: Labelled, view: GeneratorView, labels: Any) -> list[float]:
    """Return the Dice of U-Nets that were trained on the teacher, on held-out real images."""
    assert view.masks_NHW is not None
    real = Labelled(
        images_NCHW=view.images_NCHW[~view.training_N],
        labels_NHW=view.masks_NHW[~view.training_N],
        labels=labels,
    )
    patients_N = view.patients_N[~view.training_N]
    found = [
        taught_dice(teacher, real, patients_N, seed=seed, steps=STEPS) for seed in range(TEACHINGS)
    ]
    return [one for one in found if one is not None]


def nearest(images_NCHW: np.ndarray, known_NCHW: np.ndarray) -> float:
    """Return the median, over images, of the correlation with the nearest of the known ones."""
    one, other = (_unit(images) for images in (images_NCHW, known_NCHW))
    return float(np.median((one @ other.T).max(axis=1)))


def _unit(images_NCHW: np.ndarray) -> np.ndarray:
    flat_NP = images_NCHW.reshape(len(images_NCHW), -1)
    flat_NP = flat_NP - flat_NP.mean(axis=1, keepdims=True)
    unit_NP: np.ndarray = flat_NP / np.linalg.norm(flat_NP, axis=1, keepdims=True).clip(1e-6)
    return unit_NP


def described(dice: list[float], rule: MemorisationFilter, images: np.ndarray) -> dict[str, Any]:
    """Return what is said of any images: what they teach, and how near they lie."""
    return {
        "dice": round(float(np.mean(dice)), 3),
        "lowest": round(min(dice), 3),
        "highest": round(max(dice), 3),
        "stopped": round(float(rule.judge(images).copied_N.mean()), 3),
    }


def measure(
    party: SiteParty, trained: Artifact, options: argparse.Namespace, labels: Any
) -> dict[str, Any]:
    """Return the row of a training."""
    prepared = asyncio.run(party.prepare())
    view = GeneratorView.load(prepared.path / "view.npz")
    known_NCHW = view.images_NCHW[view.training_N]
    rule = MemorisationFilter.calibrate(
        known_NCHW, view.patients_N[view.training_N], [Registration()], percentile=PERCENTILE
    )
    images_NCHW, masks_NHW = sampled(trained, options.samples)
    teacher = Labelled(images_NCHW=images_NCHW, labels_NHW=masks_NHW, labels=labels)
    guarantee = trained.result["guarantee"]
    return {
        "accounted": None if guarantee is None else guarantee["epsilon"],
        "shown": trained.result["images_shown"],
        "steps": -(-trained.result["images_shown"] // options.batch),
        "seconds": round(trained.record.seconds) if hasattr(trained.record, "seconds") else None,
        **described(taught(teacher, view, labels), rule, images_NCHW),
        "nearest": round(nearest(images_NCHW, known_NCHW), 3),
    }


def of_real_images(party: SiteParty, labels: Any) -> dict[str, Any]:
    """Return what the hospital's real training images teach, and how near held-out ones lie."""
    prepared = asyncio.run(party.prepare())
    view = GeneratorView.load(prepared.path / "view.npz")
    assert view.masks_NHW is not None
    part_N = view.training_N
    teacher = Labelled(
        images_NCHW=view.images_NCHW[part_N], labels_NHW=view.masks_NHW[part_N], labels=labels
    )
    rule = MemorisationFilter.calibrate(
        view.images_NCHW[part_N], view.patients_N[part_N], [Registration()], percentile=PERCENTILE
    )
    held_out_NCHW = view.images_NCHW[~part_N]
    return {
        "accounted": None,
        "shown": int(part_N.sum()),
        "steps": None,
        "seconds": None,
        **described(taught(teacher, view, labels), rule, held_out_NCHW),
        "nearest": round(nearest(held_out_NCHW, view.images_NCHW[part_N]), 3),
    }


def told(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    accounted, steps, seconds = (
        "-" if row[name] is None else f"{row[name]:g}" for name in ("accounted", "steps", "seconds")
    )
    dice = f"{row['dice']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
    return (
        f"{row['epsilon']:>7}  {accounted:>9}  {row['shown']:>5}  {steps:>5}  {seconds:>7}  "
        f"{dice:25}  {row['stopped']:>7.1%}  {row['nearest']:>7.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", type=int, default=1, help="index of a phantom site")
    parser.add_argument("--epsilons", default="1,3,10,inf")
    parser.add_argument("--channels", type=int, default=32, help="features of the flow at most")
    parser.add_argument("--shown", type=int, default=60, help="times that each image is shown")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--store", type=Path, default=Path("epsilon-store"))
    parser.add_argument("--out", type=Path, default=Path("epsilon.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = open_root(options.store.absolute())
    site = phantom_site(options.phantom, root)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    rows = {row["epsilon"]: row for row in map(json.loads, lines)}
    labels = site.dataset["labels"]
    print(f"{site.name}: {site.training_images} training images")
    print(HEADER)
    for epsilon in ("real", *options.epsilons.split(",")):
        if epsilon not in rows:
            experiment = settings(options, "inf" if epsilon == "real" else epsilon)
            party = SiteParty(site, experiment, "bench", root / site.name, LocalRunner("cpu"))
            started = time.process_time()
            if epsilon == "real":
                found = of_real_images(party, labels)
            else:
                trained = asyncio.run(train(party))
                found = measure(party, trained, options, labels)
            spent = round(time.process_time() - started)
            rows[epsilon] = {"epsilon": epsilon, **found, "cpu_seconds": spent}
            with options.out.open("a") as file:
                file.write(json.dumps(rows[epsilon]) + "\n")
        print(told(rows[epsilon]), flush=True)


async def train(party: SiteParty) -> Artifact:
    """Prepare the hospital's images and train its generator."""
    return await party.train_generator(await party.prepare())


if __name__ == "__main__":
    main()
