"""From how many images on does a generator stop copying, and for how long may it be trained?

    python benchmarks/memorisation.py [--phantom 3 | --data DIR --site NAME] [--store DIR]
        [--sizes 20,40,80,160,320] [--shown 100] [--lengths 25,100,400] [--length-size 80]

Two curves for each generator: over the number of training images, each shown `--shown` times, and
over how often `--length-size` images are shown. Of each point: the share of samples that the filter
rejects, the share that looks like a copy by its pixels alone, and the AUC of the membership attack
on what passes, beside its control. The gate is open: points that it would close are what is asked
for; `closed` says what it would have done.

Every point is made by a site's own program in the store, stage by stage: killed, it goes on where
it was, and a longer list of sizes adds to what is there.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyfree_ray.cohort import read_cohort
from hyfree_ray.config import Experiment, find_device, resolve_experiment
from hyfree_ray.gate import Gate, faults
from hyfree_ray.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.privacy_card import read_card
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.seeds import seed_of
from hyfree_ray.simulation import sites_of
from hyfree_ray.site import SiteParty
from hyfree_ray.site_value import Site
from hyfree_ray.store import digest_of, open_root

BACKENDS = ("flow", "stylegan2")
PIXELS = ("correlation", "structure")
"""Detectors that look at pixels."""

OPEN = (
    "gate.max_rejection_rate=1",
    "gate.max_auc_over_control=0.5",
    "gate.max_nearer_to_training=1",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A generator, how many images it is trained on, and how often it is shown each."""

    backend: str
    images: int
    shown: int


def points(options: argparse.Namespace, most: int) -> list[Point]:
    """Both curves, each point once, the cheap ones first."""
    found = {
        Point(backend=backend, images=images, shown=shown)
        for backend in BACKENDS
        for images, shown in (
            *((size, options.shown) for size in _numbers(options.sizes)),
            *((options.length_size, length) for length in _numbers(options.lengths)),
        )
        if images <= most
    }
    return sorted(found, key=lambda p: (p.images * p.shown, p.backend))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


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
    assert done.release.record is not None
    audited = party.store.find_key("audit", done.release.record["inputs"]["audit"])
    return done.samples.result, audited.result["card"]


def row(point: Point, filtered: dict[str, Any], told: dict[str, Any] | None) -> str:
    """One line of the table."""
    copies = max(filtered["rejected_by"][name] for name in PIXELS) / filtered["drawn"]
    attack, closed = "not measurable", "nothing passed"
    if told is not None:
        card = read_card(told)
        nearest = card.attacks.nearest
        if nearest is not None:
            low, high = nearest.interval
            attack = f"{nearest.auc:.2f} [{low:.2f}, {high:.2f}] ({nearest.control:.2f})"
        closed = "closed" if faults(card, Gate()) else "open"
    return (
        f"{point.backend:10} {point.images:6} {point.shown:6}  {filtered['rejection_rate']:8.1%}  "
        f"{copies:6.1%}  {attack:26} {closed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantom", type=int, default=3, help="index of a phantom site")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--store", type=Path, default=Path("memorisation-store"))
    parser.add_argument("--sizes", default="20,40,80,160,320")
    parser.add_argument("--shown", type=int, default=100)
    parser.add_argument("--lengths", default="25,100,400")
    parser.add_argument("--length-size", type=int, default=80)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    store = open_root(options.store.absolute())
    device = find_device()
    site = find_site(options, store)
    print(f"{site.name}: {site.training_images} training images")
    print("generator  images  shown  rejected  copies  attack AUC (control)       default gate")
    for point in points(options, site.training_images):
        experiment = settings(point, device, options.overrides)
        found = asyncio.run(measure(point, site, experiment, store, device))
        print(row(point, *found), flush=True)


if __name__ == "__main__":
    main()
