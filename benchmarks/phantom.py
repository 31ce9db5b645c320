"""Does the phantom leave something to gain? Real data only; run it before trying any generator.

    python benchmarks/phantom.py [--phantom brain] [--seed 0] [--store DIR] [--processes 2]
        [--set budget.unet.optimiser=sgd]

Trains the pipeline's own nnU-Net, at the `small` budget and on fold 0, at each site (`local2x`) and
once on all sites' real training data together, for as many steps. Scored are the fold's test cases
and, because four test patients leave too much to chance, a fresh draw of every site. Prints Dice at
every site (case = mean of labels, then patients, then the site) and the two criteria. Its stages
are kept in the store: the same command again takes up what is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench import Bench

from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.stages.data import draw_phantom, prepare
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.training import train_segmenter

POOLED = "pooled"
GAIN, LOSS = 0.05, 0.10
"""Criteria in Dice: what pooling gains at each of the two smallest sites; what a model loses at
foreign sites, in the mean over the sites."""


class PhantomBench(Bench):
    """The phantom's sites at a seed, and a store in which their stages are made once.

    Args:
        root: the store's folder.
        seed: of the phantom and of the trainings.
        phantom: its name.
        overrides: of the budget `small`.
    """

    def __init__(self, root: Path, seed: int, phantom: str, overrides: Sequence[str] = ()) -> None:
        super().__init__(root, "bench")
        self.phantom = PHANTOMS[phantom]
        self.seed = seed
        self.experiment, _ = resolve_experiment(
            budget="small", generator="flow", device="cpu", overrides=overrides
        )
        self.sites = self._drawn_from(seed)
        self.fresh = self._drawn_from(seed_of(seed, "fresh") % 2**32)

    def _drawn_from(self, seed: int) -> dict[str, Site]:
        cohort = self.phantom.cohort_of(self.phantom.sites, seed, self.store.root)
        drawn = {name: self.phantom.drawn_from(name, seed) for name in cohort.sites}
        return sites_of(cohort, 0, phantom=drawn)

    def data(self, site: Site) -> Artifact:
        """A site, drawn."""
        return self.run(draw_phantom, **(site.phantom or {}))

    def model(self, name: str) -> tuple[int, Artifact]:
        """How many images a site, or all of them, has to train on, and the model that it gets."""
        budget = self.experiment.budget
        data, cases = self._pooled() if name == POOLED else self._own(self.sites[name])
        prepared = self.run(
            prepare,
            data=data,
            cases=cases,
            dataset=next(iter(self.sites.values())).dataset,
            caps=budget.plan.model_dump(),
        )
        trained = self.run(
            train_segmenter,
            role="local2x",
            prepared=prepared,
            segmenter=self.experiment.segmenter,
            epochs=budget.unet.epochs + budget.unet.finetune_epochs,
            iterations=budget.unet.iterations,
            validation_iterations=budget.unet.validation_iterations,
            optimiser=budget.unet.optimiser,
            precision=self.experiment.precision,
            warmup=0.0,
            seed=seed_of(self.seed, "bench", name),
        )
        return prepared.result["training_images"], trained

    def _own(self, site: Site) -> tuple[Artifact, list[Any]]:
        return self.data(site), site.part("train", "val")

    def _pooled(self) -> tuple[Artifact, list[Any]]:
        cases = []
        for number, site in enumerate(self.sites.values()):
            data, own = self._own(site)
            for case in own:
                images = [str(data.path / image) for image in case["images"]]
                # Patients of different sites have the same indices.
                patient = 1000 * number + case["patient"]
                label = str(data.path / case["label"])
                cases.append({**case, "patient": patient, "images": images, "label": label})
        key = digest_of([site.key for site in self.sites.values()])
        nowhere = Artifact(stage="data", key=key, path=self.store.root)
        return nowhere, cases

    def dice(self, model: Artifact, name: str) -> float:
        """A model's Dice at a site, on the fold's test cases and on the fresh draw."""
        site, fresh = self.sites[name], self.fresh[name]
        patients: dict[Any, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for drawn, cases in ((site, site.part("test")), (fresh, list(fresh.cases))):
            found = self.run(
                score,
                data=self.data(drawn),
                cases=cases,
                dataset=drawn.dataset,
                model=model,
                segmenter=self.experiment.segmenter,
                regime="local2x",
                train_site="bench",
            )
            for row in found.result["rows"]:
                if row["dice"] is not None:
                    patients[drawn is fresh, row["patient"]][row["case"]].append(row["dice"])
        return fmean(fmean(map(fmean, cases.values())) for cases in patients.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A model in the table."""

    name: str
    images: int
    dice: tuple[float, ...]
    """By site."""


def measure(root: Path, seed: int, phantom: str, overrides: Sequence[str], name: str) -> Row:
    """Train one model and score it everywhere, in this process."""
    torch.set_num_threads(1)
    bench = PhantomBench(root, seed, phantom, overrides)
    images, model = bench.model(name)
    dice = tuple(bench.dice(model, site) for site in bench.sites)
    return Row(name=name, images=images, dice=dice)


def report(rows: dict[str, Row], sites: list[str]) -> None:
    """Print the two criteria."""
    smallest = sorted(sites, key=lambda name: rows[name].images)[:2]
    gains = {name: rows[POOLED].dice[k] - rows[name].dice[k] for k, name in enumerate(sites)}
    losses = {
        name: rows[name].dice[k] - fmean(d for j, d in enumerate(rows[name].dice) if j != k)
        for k, name in enumerate(sites)
    }
    worst_gain = min(gains[name] for name in smallest)
    for what, least, found, values in (
        (f"pooled - local2x at {' and '.join(smallest)}", GAIN, worst_gain, gains),
        ("own - foreign, mean of the sites", LOSS, fmean(losses.values()), losses),
    ):
        verdict = "PASS" if found >= least else "FAIL"
        shown = ", ".join(f"{name} {value:+.3f}" for name, value in values.items())
        print(f"{verdict} {what}: {found:+.3f}, at least {least:.2f} is wanted: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", choices=PHANTOMS.names(), default=DEFAULT_PHANTOM)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="where to keep the stages")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = (asked.store or Path(folder)).absolute()
        sites = list(PhantomBench(root, asked.seed, asked.phantom).sites)
        print(f"Dice, seed {asked.seed}".ljust(26) + "".join(f"{name:>9}" for name in sites))
        rows: dict[str, Row] = {}
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(asked.processes, mp_context=spawn) as pool:
            names = (POOLED, *sites)
            for done in as_completed(
                pool.submit(measure, root, asked.seed, asked.phantom, asked.overrides, name)
                for name in names
            ):
                row = rows[done.result().name] = done.result()
                cells = "".join(f"{dice:9.3f}" for dice in row.dice)
                print(f"{row.name:8} ({row.images:3d} images)".ljust(26) + cells, flush=True)
    report(rows, sites)


if __name__ == "__main__":
    main()
