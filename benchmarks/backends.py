"""Which generator is better for a site at equal CPU seconds? What `--generator auto` rests on.

    python benchmarks/backends.py --phantom 3 --seconds 30,90,240 [--store DIR] [--sheets DIR]
    python benchmarks/backends.py --data Dataset301_LungCXR --site Montgomery

For each backend and budget: KID to held-out images (and the floor between real ones), coverage,
the share of samples that the memorisation filter rejects, the Dice on real test cases of an nnU-Net
that was trained on the samples alone, and what choosing a snapshot took, as a share of the
training. The last line of each budget has each one's ratio of KIDs to the first's. With a store,
what is done is kept; `--sheets` gets a picture of each one's samples beside real images. With
`--quick` samples of the last snapshot are judged alone: nothing is filtered, no segmenter trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import Bench
from PIL import Image

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.evaluation.image_quality import density_and_coverage, kid
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators import GENERATORS, sample
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.embedders import load_embedder
from hyfree_ray.stages.audit import audit
from hyfree_ray.stages.data import draw_phantom, prepare
from hyfree_ray.stages.pooling import pool_releases
from hyfree_ray.stages.quality import choose_snapshot
from hyfree_ray.stages.quality_card import quality_card
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.synthesis import label, release, synthesise
from hyfree_ray.stages.training import (
    COPYING,
    overtrain_generator,
    train_general,
    train_generator,
    train_segmenter,
)

WARM_UP, PROBE = 64, 800
"""Images shown before the clock counts, and to find out what a backend costs on this machine."""

SHEET_ROWS, SHEET_COLUMNS = 2, 10
"""Of real images in a picture, and of synthetic ones."""

HEADER = "seconds  backend    shown   CPU s  kid x1000 (floor)  coverage  rejected   Dice  choice"


NAMES = [generator.name for generator in GENERATORS.built_in()]


class SiteBench(Bench):
    """A site's way from its images to a segmenter trained on its samples alone."""

    def __init__(self, site: Site, experiment: Experiment, root: Path) -> None:
        super().__init__(root, site.name)
        self.site, self.experiment = site, experiment
        self.data_name = ""

    def prepare(self) -> None:
        """The site's data and plan."""
        site = self.site
        if site.phantom is not None:
            self.data = self.run(draw_phantom, **site.phantom)
        else:
            assert site.folder is not None
            self.data = Artifact(stage="data", key=site.key, path=site.folder)
        self.prepared = self.run(
            prepare,
            data=self.data,
            cases=site.part("train", "val"),
            dataset=site.dataset,
            caps=self.experiment.budget.plan.model_dump(),
        )

    def segmenter(self) -> None:
        """What both backends share: the site's data, plan and nnU-Net."""
        self.prepare()
        unet = self.experiment.budget.unet
        self.local = self.run(
            train_segmenter,
            role="local",
            prepared=self.prepared,
            segmenter=self.experiment.segmenter,
            epochs=unet.epochs,
            iterations=unet.iterations,
            validation_iterations=unet.validation_iterations,
            optimiser=unet.optimiser,
            precision=self.experiment.precision,
            warmup=0.0,
            seed=1,
        )
        # One for all: it tests the filter, and is no part of what is compared.
        self.copies = self.run(
            overtrain_generator,
            prepared=self.prepared,
            generator=self.experiment.generator.model_dump(),
            images_shown=COPYING * self.experiment.budget.generator.images_shown_per_image,
            precision=self.experiment.precision,
            seed=9,
        )

    def generator(
        self, backend: str, images_shown: int, *, seed: int = 2, **config: Any
    ) -> tuple[Artifact, float]:
        """A trained generator and the CPU seconds that it took; `config` changes its settings."""
        settings = GENERATORS[backend].at("small").model_dump() | config
        trained = self.run(
            train_generator,
            prepared=self.prepared,
            generator={"name": backend, "config": settings},
            images_shown=images_shown,
            snapshots=2,
            mirror=False,
            precision=self.experiment.precision,
            seed=seed,
        )
        return trained, trained.record.cpu_seconds

    def look(self, generator: Artifact, count: int = 200) -> tuple[np.ndarray, dict[str, Any]]:
        """Samples of the last snapshot, and KID and coverage in the site's own features."""
        view = GeneratorView.load(self.prepared.path / "view.npz")
        folder = generator.path
        last = max(file.name for file in (folder / "snapshots").iterdir())
        series = sample(folder, last, start=0, count=count, seed=3, device="cpu", precision="fp32")
        drawn_NCHW = np.concatenate(list(series))
        embed = load_embedder(
            "nnunet",
            model=self.local.path / "model",
            weights=None,
            view=view,
            device="cpu",
        )
        held_out_MF = embed(view.images_NCHW[~view.training_N])
        sample_NF = embed(drawn_NCHW)
        _, coverage = density_and_coverage(sample_NF, held_out_MF)
        floor = kid(embed(view.images_NCHW[view.training_N]), held_out_MF)
        found = {"kid": kid(sample_NF, held_out_MF), "kid_floor": floor, "coverage": coverage}
        return drawn_NCHW, found | dict.fromkeys(("rejected", "dice", "choice"), float("nan"))

    def measure(self, backend: str, generator: Artifact, images_shown: int) -> dict[str, Any]:
        """Quality, memorisation, and what samples alone teach a segmenter."""
        embedding = {"embedder": "nnunet", "embedder_weights": None}
        common = {"segmenter": self.local, "prepared": self.prepared, **embedding}
        precision, unet = self.experiment.precision, self.experiment.budget.unet
        choice = self.run(
            choose_snapshot,
            generator=generator,
            percentile=5.0,
            precision=precision,
            seed=3,
            **common,
        )
        samples = self.run(
            synthesise,
            generator=generator,
            choice=choice,
            copies=self.copies,
            quota=300,
            percentile=5.0,
            max_rejection_rate=self.experiment.gate.max_rejection_rate,
            precision=precision,
            seed=4,
            **common,
        )
        self.samples = samples
        chosen = choice.result
        share = chosen.get("seconds", 0.0) / chosen.get("training_seconds", float("inf"))
        found = {"choice": share, "rejected": samples.result["rejection_rate"]}
        audited = self.run(
            audit,
            samples=samples,
            gate=self.experiment.gate.model_dump(exclude={"quality"}),
            generator=backend,
            images_shown=images_shown,
            seed=7,
            **common,
        )
        labelled = self.run(
            label,
            samples=samples,
            audit=audited,
            segmenter=self.local,
            prepared=self.prepared,
            dataset=self.site.dataset,
        )
        card = self.run(
            quality_card,
            samples=samples,
            labelled=labelled,
            generator=generator,
            gate={"enforced": False},
            images_shown_per_image=1,
            max_steps=unet.epochs * unet.iterations,
            seed=8,
            **common,
        )
        released = self.run(
            release,
            samples=samples,
            audit=audited,
            labelled=labelled,
            quality=card,
            prepared=self.prepared,
            site=self.site.name,
            dataset=self.site.dataset,
            federation="bench",
            addressee=dataclasses.asdict(self.experiment.addressee),
            seed=5,
        )
        found["label_share"] = released.result.get("label_share", {})
        unknown = float("nan")  # where all samples are withheld
        found |= {name: card.result.get(name, unknown) for name in ("kid", "kid_floor", "coverage")}
        found["dice"] = unknown
        if released.result["images"]:
            pooled = self.run(
                pool_releases,
                sites=[self.site.name],
                federation="bench",
                caps=self.experiment.budget.plan.model_dump(),
                release_0=released,
            )
            general = self.run(
                train_general,
                prepared=pooled,
                segmenter=self.experiment.segmenter,
                epochs=unet.epochs,
                iterations=unet.iterations,
                validation_iterations=unet.validation_iterations,
                optimiser=unet.optimiser,
                precision=self.experiment.precision,
                workers=1,
                seed=6,
            )
            found["dice"] = self.score(general)
        return found

    def score(self, model: Artifact) -> float:
        """Mean Dice on the site's real test cases."""
        scored = self.run(
            score,
            data=self.data,
            cases=self.site.part("test"),
            dataset=self.site.dataset,
            model=model,
            segmenter=self.experiment.segmenter,
            regime="local",
            train_site=self.site.name,
        )
        return float(scored.result["mean_dice"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", type=int, default=3, help="index of a phantom site")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--seconds", default="30,90,240")
    parser.add_argument("--generators", default=",".join(NAMES))
    parser.add_argument("--store", type=Path, help="where to keep the stages")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sheets", type=Path, help="a folder for pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment, _ = resolve_experiment(budget="small", generator="flow", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = (options.store or Path(folder)).absolute()
        bench = SiteBench(find_site(options, root), experiment, root / "site")
        bench.segmenter()
        print(f"{bench.site.name}: local nnU-Net Dice {bench.score(bench.local):.3f}")
        names = options.generators.split(",")
        for name in names:
            bench.generator(name, WARM_UP)
        pace = {name: bench.generator(name, PROBE)[1] / PROBE for name in names}
        print(HEADER)
        for seconds in (float(text) for text in options.seconds.split(",")):
            kids = {}
            for backend in names:
                shown = max(2 * PROBE, round(seconds / pace[backend]))
                generator, spent = bench.generator(backend, shown)
                if options.quick:
                    drawn_NCHW, found = bench.look(generator)
                else:
                    found = bench.measure(backend, generator, shown)
                    stored_NCHW = np.load(bench.samples.path / "accepted.npy")
                    drawn_NCHW = stored_NCHW / np.iinfo(stored_NCHW.dtype).max * 2 - 1
                kids[backend] = found["kid"]
                if options.sheets is not None:
                    draw_sheet(bench, drawn_NCHW, options.sheets / f"{backend}-{seconds:.0f}.png")
                print(
                    f"{seconds:7.0f}  {backend:9} {shown:6}  {spent:6.0f}  "
                    f"{1e3 * found['kid']:8.2f} ({1e3 * found['kid_floor']:.2f})  "
                    f"{found['coverage']:8.2f}  {found['rejected']:8.1%}  {found['dice']:6.3f}  "
                    f"{found['choice']:6.1%}",
                    flush=True,
                )
            ratios = (f"{name}={kid / kids[names[0]]:.2f}" for name, kid in kids.items())
            print(f"seconds={seconds:.0f} kid_ratio {' '.join(ratios)}", flush=True)


def draw_sheet(bench: SiteBench, drawn_NCHW: np.ndarray, file: Path) -> None:
    """Draw what a generator has drawn below real training images."""
    view = GeneratorView.load(bench.prepared.path / "view.npz")
    rows = []
    for images_NCHW in (view.images_NCHW[view.training_N], drawn_NCHW):
        for first in range(0, SHEET_ROWS * SHEET_COLUMNS, SHEET_COLUMNS):
            row = [image_CHW[0] for image_CHW in images_NCHW[first : first + SHEET_COLUMNS]]
            blank = np.full(view.images_NCHW.shape[2:], 1.0)
            rows.append(np.concatenate(row + [blank] * (SHEET_COLUMNS - len(row)), 1))
    pixels = ((np.concatenate(rows) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(pixels, np.ones((2, 2), np.uint8))).save(file)


def find_site(options: argparse.Namespace, folder: Path) -> Site:
    """The site that the options name."""
    if options.data is None:
        name = f"site-{options.phantom}"
        cohort = phantom_cohort(options.phantom, 0, folder)
        drawn = {
            other: {"index": int(other[5:]), "seed": 0, "phantom": PHANTOM_VERSION}
            for other in cohort.sites
        }
        return sites_of(cohort, 0, phantom=drawn)[name]
    cohort = read_cohort(options.data)
    return sites_of(cohort, 0)[options.site or next(iter(cohort.sites))]


if __name__ == "__main__":
    main()
