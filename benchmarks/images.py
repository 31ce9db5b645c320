"""What does a generator learn in a given time? One factor of its training changed at a time.

    python benchmarks/images.py --phantom brain --site site-1 --out trials [--factors derived]
    python benchmarks/images.py --data Dataset305_BUSI --out trials [--site SITE] [--seeds 3]
    python benchmarks/images.py --phantom brain --site site-1 --out trials --costs

A row a training is appended to `rows.jsonl` in the folder `--out`, where a training whose row is
there is left out; real images beside synthetic ones go to `<set>-<site>-<factor>-<seed>.png`, which
stays where the real images are. Stages are kept in `store`: the same command again takes up what is
done.

`--shown` is the length in images of batches of 16; smaller batches show fewer at the same cost, by
the table in the flow's plan, which `--costs` prints anew. `dice` is that of an nnU-Net trained on
the samples alone, on the hospital's real test cases; `share` the pixels with each label, of the
samples and of the real training images; `spectrum` the mean distance of the logarithms of radial
power spectra to those of held-out images, `spectrum_floor` that of the real training images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from backends import SiteBench
from PIL import Image

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.store import Store
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.denoising import plan as denoising_plan
from hyfree_ray.generators.denoising.plan import COSTS, MAX_BATCH
from hyfree_ray.generators.flow.learner import FlowLearner
from hyfree_ray.generators.flow.plan import schedule
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.segmenters.unet_plan import UNetPlan

Patch = Callable[[], AbstractContextManager[Any]]

FACTORS: dict[str, tuple[dict[str, Any], Patch]] = {
    "derived": ({}, nullcontext),
    "batch-16": ({"batch_size": 16}, nullcontext),
    "batch-8": ({"batch_size": 8}, nullcontext),
    "batch-4": ({"batch_size": 4}, nullcontext),
    "half-rate": ({"batch_size": 4, "learning_rate": 1e-3}, nullcontext),
    "twice-rate": ({"batch_size": 4, "learning_rate": 4e-3}, nullcontext),
    "augmented": ({}, lambda: mock.patch.object(denoising_plan, "AUGMENT_FROM", 0)),
}
"""Settings of the generator, and what else is changed while it trains."""

RINGS = 16
SHEET_ROWS = 12
TURNS, STEPS = 5, 24
"""For the costs: turns, of which the fastest counts, and images a turn."""


def find_site(options: argparse.Namespace, root: Path) -> Site:
    """The hospital that the options name; of real data fold 0 or 1."""
    if options.data is not None:
        cohort = read_cohort(options.data)
        return sites_of(cohort, options.fold)[options.site or next(iter(cohort.sites))]
    phantom = PHANTOMS[options.phantom]
    cohort = phantom.cohort_of(phantom.sites, 0, root)
    drawn = {name: phantom.drawn_from(name, 0) for name in cohort.sites}
    return sites_of(cohort, options.fold, phantom=drawn)[options.site]


def spectra(images_NCHW: np.ndarray) -> np.ndarray:
    """Logarithm of the mean radial power spectrum of each channel, (C, rings)."""
    height, width = images_NCHW.shape[2:]
    radius_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring_HW = np.minimum((radius_HW * 2 * RINGS).astype(int), RINGS - 1)
    power_CHW = (np.abs(np.fft.fft2(images_NCHW.astype(np.float64))) ** 2).mean(0)
    rings = [power_CHW[:, ring_HW == ring].mean(1) for ring in range(RINGS)]
    return np.log(np.stack(rings, 1) + 1e-9)


def draw_sheet(real_NCHW: np.ndarray, synthetic_NCHW: np.ndarray, file: Path) -> None:
    """Real images on the left, synthetic ones on the right; a row an image, a column a channel."""

    def column(images_NCHW: np.ndarray) -> np.ndarray:
        grey_NCHW = ((images_NCHW[:SHEET_ROWS] + 1) * 127.5).clip(0, 255)
        rows = [np.concatenate(list(image_CHW), 1) for image_CHW in grey_NCHW]
        return np.kron(np.concatenate(rows), np.ones((2, 2)))

    step = max(1, len(real_NCHW) // SHEET_ROWS)
    left, right = column(real_NCHW[::step]), column(synthetic_NCHW)
    height = min(len(left), len(right))
    gap = np.full((height, 12), 255.0)
    pixels = np.concatenate([left[:height], gap, right[:height]], 1)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def trial(bench: SiteBench, root: Path, factor: str, shown: int, seed: int) -> dict[str, Any]:
    """Train with one factor changed, and measure what it draws and teaches."""
    config, patch = FACTORS[factor]
    view = GeneratorView.load(bench.prepared.path / "view.npz")
    images = int(view.training_N.sum())
    batch = config.get("batch_size") or _derived_batch(bench, images, shown)
    length = round(shown / COSTS.get(batch, 1.0))
    # What is changed by a patch is in no key: each factor has a store of its own.
    bench.store = Store(root / factor, bench.owner, {})
    with patch():
        generator, spent = bench.generator("flow", length, seed=seed, **config)
    found = bench.measure("flow", generator, length)
    stored_NCHW = np.load(bench.samples.path / "accepted.npy")
    drawn_NCHW = stored_NCHW / np.iinfo(stored_NCHW.dtype).max * 2 - 1
    real_NCHW, held_NCHW = view.images_NCHW[view.training_N], view.images_NCHW[~view.training_N]
    target = spectra(held_NCHW)
    row = {"images": images, "shown": length, "batch": batch, "cpu_seconds": round(spent)}
    if len(drawn_NCHW):
        row["spectrum"] = round(float(np.abs(spectra(drawn_NCHW) - target).mean()), 3)
        row["spectrum_floor"] = round(float(np.abs(spectra(real_NCHW) - target).mean()), 3)
        draw_sheet(real_NCHW, drawn_NCHW, root.parent / f"{_name(bench)}-{factor}-{seed}.png")
    shares = {"share": found.pop("label_share"), "share_real": bench.prepared.result["label_share"]}
    # What cannot be measured where all samples are withheld is null, not NaN.
    rounded = {
        name: None if math.isnan(value) else round(value, 5) for name, value in found.items()
    }
    return (
        row
        | rounded
        | {
            name: {label: round(value, 4) for label, value in by.items()}
            for name, by in shares.items()
        }
    )


def _derived_batch(bench: SiteBench, images: int, shown: int) -> int:
    record = GENERATORS["flow"]
    plan = record.derive(UNetPlan.read(bench.prepared.path), record.at("small"))
    return schedule(plan, record.at("small"), images=images, images_shown=shown).batch_size


def _name(bench: SiteBench) -> str:
    return f"{bench.data_name}-{bench.site.name}"


def print_costs(bench: SiteBench) -> None:
    """Print what an image costs in batches of each size, and the ratio to the largest."""
    record = GENERATORS["flow"]
    plan = record.derive(UNetPlan.read(bench.prepared.path), record.at("small"))
    best: dict[int, float] = {}
    random = torch.Generator().manual_seed(0)
    learners = {
        size: FlowLearner(
            schedule(plan, record.config(batch_size=size), images=STEPS, images_shown=STEPS * size),
            compute_of("cpu", bench.experiment.precision),
            images_shown=10**6,
        )
        for size in COSTS
    }
    for _ in range(TURNS):
        for size, learner in learners.items():
            images_NCHW = torch.rand(size, plan.channels, *plan.padded_size) * 2 - 1
            begun, count = time.process_time(), max(2, STEPS // size)
            for step in range(count):
                learner.step(images_NCHW, step, random)
            pace = (time.process_time() - begun) / count / size
            best[size] = min(best.get(size, pace), pace)
    for size, pace in best.items():
        print(f"batch={size} ms_per_image={1e3 * pace:.2f} ratio={pace / best[MAX_BATCH]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", choices=PHANTOMS.names(), default=DEFAULT_PHANTOM)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--site", default=None)
    parser.add_argument("--fold", type=int, choices=(0, 1), default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", default="derived,batch-16")
    parser.add_argument("--shown", type=int, help="default: as at the budget `small`")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment, _ = resolve_experiment(budget="small", generator="flow", device="cpu")
    root = (options.out / "store").absolute()
    root.mkdir(parents=True, exist_ok=True)
    name = options.phantom if options.data is None else options.data.name
    site = find_site(options, root)
    bench = SiteBench(site, experiment, root / f"{name}-{options.fold}" / site.name)
    bench.data_name = f"{name}-fold{options.fold}"
    if options.costs:
        bench.prepare()
        print_costs(bench)
        return
    bench.segmenter()
    lengths = experiment.budget.generator
    shown = options.shown or max(
        lengths.min_images_shown, lengths.images_shown_per_image * site.training_images
    )
    local = round(bench.score(bench.local), 4)
    rows = options.out / "rows.jsonl"
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    for seed in range(options.seeds):
        for factor in options.factors.split(","):
            key = {"set": bench.data_name, "site": site.name, "factor": factor}
            key |= {"seed": seed, "length": shown}
            if any(key.items() <= row.items() for row in done):
                continue
            row = key | {"local": local} | trial(bench, root, factor, shown, seed)
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
