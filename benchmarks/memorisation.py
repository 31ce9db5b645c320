"""From how many images on does a generator stop copying, and for how long may it be trained?

    python benchmarks/memorisation.py [--phantom 3 | --data DIR --site NAME] [--store DIR]
        [--points 20x100,40x100,80x100,160x100,320x100,80x25,80x50,80x200]
        [--generators flow,stylegan2] [--out results.csv]

A point `80x100` is 80 training images, each shown 100 times. Of each: the share of samples that the
filter rejects, the share that looks like a copy by its pixels alone, what the same filter rejects
of real images of patients who were held out, and the AUC of the membership attack on what passes,
beside what chance finds. The gate is open: points that it would close are what is asked for; `gate`
says what it would have done.

Every point is made by a site's own program in the store, stage by stage: killed, it goes on where
it was, and a longer list adds to what is there. Points are made in the order in which they are
listed, and each is a line of `--out` as soon as it is known; `--figure` draws these lines.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hyfree_ray.border.gate import Gate, violations
from hyfree_ray.border.privacy_card import read_card
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.config.device import find_device
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.records import StageRecord
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.core.store_root import open_root
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.privacy.detectors import NAMES
from hyfree_ray.runners.local import LocalRunner

POINTS = "20x100,40x100,80x100,160x100,320x100,80x25,80x50,80x200"
"""Both curves: over the number of images, and over how often each is shown."""

PIXELS = NAMES
"""Distances of pixels."""

COLOURS, STYLES = ("#0072b2", "#d55e00"), ("o-", "s--", "^:", "d-.", "v-")

OPEN = (
    "gate.max_rejection_rate=1",
    "gate.min_copy_recall=0",
    "gate.max_attack_auc=1",
    "gate.max_attack_tpr=1",
    "gate.min_patient_p=0",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A generator, how many images it is trained on, and how often it is shown each."""

    backend: str
    images: int
    shown: int


def points(options: argparse.Namespace, most: int) -> list[Point]:
    """The points in the order in which they are asked for, those of too few images left out."""
    found = []
    for text in options.points.split(","):
        images, shown = (int(number) for number in text.split("x"))
        found += [
            Point(backend=backend, images=images, shown=shown)
            for backend in options.generators.split(",")
            if images <= most
        ]
    return found


def find_site(options: argparse.Namespace, folder: Path) -> Site:
    """The named site of a data set, or a phantom one."""
    if options.data is not None:
        return sites_of(read_cohort(options.data), 0)[options.site]
    name = f"site-{options.phantom}"
    cohort = phantom_cohort(options.phantom, 0, folder)
    drawn = {
        f"site-{index}": {"index": index, "seed": 0, "phantom": PHANTOM_VERSION}
        for index in range(1, options.phantom + 1)
    }
    return sites_of(cohort, 0, phantom=drawn)[name]


def smaller(site: Site, images: int) -> Site:
    """The site with that many training images, patient by patient; a larger one contains it.

    Validation cases stay: they are who was not trained on.
    """
    training = sorted(
        site.part("train"), key=lambda case: (seed_of(0, str(case["patient"])), case["name"])
    )
    cases = (*training[:images], *site.part("val", "test"))
    return replace(site, cases=cases, key=digest_of([site.key, images]))


def settings(point: Point, device: str, overrides: list[str]) -> Experiment:
    """The `small` budget with this point's generator and length, and an open gate."""
    length = (
        f"budget.generator.images_shown_per_image={point.shown}",
        "budget.generator.min_images_shown=1",
    )
    experiment, _ = resolve_experiment(
        budget="small",
        generator=point.backend,
        device=device,
        overrides=[*length, *OPEN, *overrides],
    )
    return experiment


async def measure(
    point: Point, site: Site, experiment: Experiment, store: Path, device: str
) -> Any:
    """Run a site's program up to its release. Returns what the filter and the audit found."""
    party = SiteParty(
        smaller(site, point.images), experiment, "bench", store / site.name, LocalRunner(device)
    )
    done = await party.contribute()
    assert done.release is not None
    assert isinstance(done.release.record, StageRecord)
    audited = party.store.find_key("audit", done.release.record.inputs["audit"])
    return done.samples.result, audited.result["card"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found at a point. Shares of samples, but for `held_out`: of real images."""

    generator: str
    images: int
    shown: int
    drawn: int
    rejected: float
    copies: float
    held_out: float | None
    auc: float | None
    auc_bound: float | None
    chance: float | None
    gate: str

    def told(self) -> str:
        """One line of the table."""
        attack = "not measurable"
        if self.auc is not None:
            attack = f"{self.auc:.2f} > {self.auc_bound:.2f} ({self.chance:.2f})"
        held_out = "" if self.held_out is None else f"{self.held_out:.1%}"
        return (
            f"{self.generator:10} {self.images:6} {self.shown:6} {self.drawn:6}  "
            f"{self.rejected:8.1%}  {self.copies:6.1%}  {held_out:>8}  {attack:26} {self.gate}"
        )


HEADER = (
    "generator  images  shown  drawn  rejected  copies  held-out  attack AUC > bound (chance)"
    "default gate"
)


def row(point: Point, filtered: dict[str, Any], told: dict[str, Any] | None) -> Row:
    """The numbers of a point, from what its filter and its audit returned."""
    attacks, gate = None, "nothing passed"
    if told is not None:
        card = read_card(told)
        attacks = card.findings.attacks
        gate = "closed" if violations(card, Gate()) else "open"
    return Row(
        generator=point.backend,
        images=point.images,
        shown=point.shown,
        drawn=filtered["drawn"],
        rejected=filtered["rejection_rate"],
        copies=max(filtered["rejected_by"][name] for name in PIXELS) / filtered["drawn"],
        held_out=filtered["held_out_rejected_share"],
        auc=None if attacks is None else attacks.auc,
        auc_bound=None if attacks is None else attacks.auc_bound,
        chance=None if attacks is None else attacks.chance,
        gate=gate,
    )


def write(rows: list[Row], path: Path) -> None:
    """All points so far, as CSV."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(asdict(one) for one in rows)


def draw(rows: list[Row], path: Path) -> None:
    """Rejected samples over the number of images and over how often each is shown."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    usual = Counter(one.shown for one in rows).most_common(1)[0][0]
    for colour, generator in zip(COLOURS, sorted({one.generator for one in rows}), strict=False):
        mine = [one for one in rows if one.generator == generator]
        sizes = sorted((one.images, 100 * one.rejected) for one in mine if one.shown == usual)
        left.plot(*zip(*sizes, strict=True), "o-", color=colour, label=generator)
        for images, style in zip(sorted({one.images for one in mine}), STYLES, strict=False):
            lengths = sorted((r.shown, 100 * r.rejected) for r in mine if r.images == images)
            if len(lengths) > 1:
                name = f"{generator}, {images} images"
                right.plot(*zip(*lengths, strict=True), style, color=colour, label=name)
    left.set(xscale="log", xlabel=f"training images, each shown {usual} times")
    left.set_ylabel("samples rejected as copies (%)")
    right.set(xscale="log", xlabel="times that each training image is shown")
    ticks = ((left, {r.images for r in rows if r.shown == usual}), (right, {r.shown for r in rows}))
    for axes, values in ticks:
        axes.set_xticks(sorted(values), [str(value) for value in sorted(values)])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=144)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", type=int, default=3, help="index of a phantom site")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--store", type=Path, default=Path("memorisation-store"))
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--generators", default="flow,stylegan2")
    parser.add_argument("--out", type=Path, default=Path("memorisation.csv"))
    parser.add_argument("--figure", type=Path, help="PNG to draw the points to")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    store = open_root(options.store.absolute())
    device = find_device()
    site = find_site(options, store)
    print(f"{site.name}: {site.training_images} training images")
    print(HEADER)
    rows: list[Row] = []
    for point in points(options, site.training_images):
        experiment = settings(point, device, options.overrides)
        found = asyncio.run(measure(point, site, experiment, store, device))
        rows.append(row(point, *found))
        print(rows[-1].told(), flush=True)
        write(rows, options.out)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
