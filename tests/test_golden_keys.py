"""Keys are promises: what a store holds is found again by them, whoever moves the code about.

`golden_keys.json` holds the key of every call of some plans. Code that is moved or written better
leaves them alone; a change that means to make things anew writes the file again, and says why:

    python -m tests.test_golden_keys
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.keys import digest_of
from hyfree_ray.evaluation.regimes import settings
from hyfree_ray.federation.party import Party
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation, sites_of
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.runners.planning import PlanningRunner, plan

GOLDEN = Path(__file__).with_name("golden_keys.json")

EVERYTHING = ",".join(settings())


def experiment(budget: str, generator: str, settings: str, *overrides: str) -> Experiment:
    found, _ = resolve_experiment(
        budget=budget,
        generator=generator,
        device="cpu",
        overrides=["precision=fp32", *overrides],
        settings=tuple(name for name in settings.split(",") if name),
    )
    return found


def phantom(sites: int, found: Experiment, root: Path) -> Simulation:
    cohort = phantom_cohort(sites, found.seed, root)
    drawn = {
        f"site-{index}": {"index": index, "seed": found.seed, "phantom": PHANTOM_VERSION}
        for index in range(1, sites + 1)
    }
    described = sites_of(cohort, found.fold, phantom=drawn)
    return Simulation(cohort=cohort.name, sites=described, experiment=found)


def volumes(found: Experiment, root: Path) -> Simulation:
    """Two hospitals of uneven size, with volumes of two channels in folders."""

    def case(site: str, number: int) -> Case:
        name = f"{site}_{number:02d}"
        return Case(
            name=name,
            patient=f"{site}-p{number // 2}",
            images=(f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}_0001.nii.gz"),
            label=f"labelsTr/{name}.nii.gz",
            shape=(7 + number % 3, 40, 56),
            spacing=(3.0, 0.8, 1.1),
            digest=f"{number:064x}",
        )

    sizes = {"A": 13, "B": 24}
    cohort = Cohort(
        name="Volumes",
        root=root / "raw",
        channel_names=("T2", "ADC"),
        labels={"background": 0, "gland": 1},
        file_ending=".nii.gz",
        sites={site: tuple(case(site, k) for k in range(n)) for site, n in sizes.items()},
        dataset_json={"overwrite_image_reader_writer": "SimpleITKIO"},
    )
    sites = sites_of(cohort, found.fold)
    return Simulation(cohort=cohort.name, sites=sites, experiment=found)


def simulations(root: Path) -> dict[str, Simulation]:
    """Plans that call every stage with every kind of parameter."""
    every = phantom(3, experiment("smoke", "flow", EVERYTHING), root)
    return {
        "flow, all settings": every,
        "flow, some contributors": replace(every, contributors=("site-1", "site-3")),
        "flow, default settings at small": phantom(
            5, experiment("small", "flow", "personalised,real-all"), root
        ),
        "stylegan2, all settings": phantom(3, experiment("smoke", "stylegan2", EVERYTHING), root),
        "stylegan2, nothing beside the protocol, at paper": phantom(
            2, experiment("paper", "stylegan2", "", "seed=3", "fold=2"), root
        ),
        "flow, volumes, what is off by default": volumes(
            experiment("smoke", "flow", EVERYTHING, "labeller=local2x", "min_label_agreement=0.4"),
            root,
        ),
    }


def steps(parties: Sequence[Party]) -> list[str]:
    return sorted(
        f"{step.owner} {step.name} {step.stage} {step.key}"
        for party in parties
        for step in party.steps
    )


async def by_files(simulation: Simulation, root: Path) -> list[str]:
    """The calls of the programs on files: sites contribute, the pool trains, sites personalise."""
    runner = PlanningRunner()
    sites: Mapping[str, SiteParty] = {
        name: simulation.site_party(name, root, runner) for name in simulation.sites
    }
    parcels = {name: await site.submit() for name, site in sites.items()}
    released = {name: parcel.key for name, parcel in parcels.items()}
    key = digest_of([simulation.experiment.key(simulation.federation, released), "files"])
    pool = PoolParty(
        key, simulation.federation, simulation.dataset, simulation.experiment, root / "p", runner
    )
    for name, parcel in parcels.items():
        await pool.take(name, parcel)
    members = pool.rounds.close_with_late(list(sites))
    assert members == released
    general, shared = await pool.model("general", members), await pool.share_for_replay(members)
    for name, site in sites.items():
        await site.compare_at_home(general, shared)
        models = [("local", None, None), ("local2x", None, None), ("finetuned", general, None)]
        for regime, *given in [*models, ("personalised", general, shared)]:
            model = await site.model(regime, *given)
            assert model is not None
            await site.score(regime, name, model)
        await site.choose(general, shared)
    return [f"files {key}", *steps([*sites.values(), pool])]


def golden() -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = {}
        for name, simulation in simulations(root).items():
            planned = plan(simulation, root / "store")
            found[name] = [
                f"experiment {simulation.key}",
                f"federation {simulation.federation}",
                *steps(planned.parties),
            ]
        one = simulations(root)["flow, all settings"]
        found["flow, by files"] = asyncio.run(by_files(one, root / "files"))
        assert not (root / "store").exists()
        return found


def test_keys_of_all_calls_are_those_that_were_committed() -> None:
    expected, found = json.loads(GOLDEN.read_text()), golden()
    assert expected.keys() == found.keys()
    for name, lines in expected.items():
        assert found[name] == lines, name


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
