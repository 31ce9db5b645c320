"""Labels of public images between parties: signed, checked, pooled without any release."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.public_labels import write_labels
from hyfree_ray.border.release import read_release
from hyfree_ray.cohorts.public_images import draw_public_images
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.stage import Context
from hyfree_ray.evaluation.regimes import purposes_of
from hyfree_ray.evaluation.scores import read_results
from hyfree_ray.federation.interface import LabelsReceipt
from hyfree_ray.federation.parameters import public_pairs
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.trust import sign
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.runners.planning import plan
from hyfree_ray.stages.public import pair_public
from tests import toys
from tests.submissions import key_of, take
from tests.submissions import parcel as release_of
from tests.toy_processes import Start

NAMES = {"background": 0, "organ": 1, "lesion": 2}
SETTINGS = ("general-public", "finetuned-public", "personalised-public")


def asked(simulation: Simulation, *settings: str) -> Simulation:
    experiment = simulation.experiment.model_copy(update={"settings": settings})
    return replace(simulation, experiment=experiment)


def labelled(simulation: Simulation, site: str, folder: Path, /, **changes: Any) -> Parcel:
    """A site's labels of public images, on their way."""
    pairs = public_pairs(site, simulation.dataset, simulation.federation, simulation.experiment)
    size = changes.get("size", (20, 28))
    random = np.random.default_rng([*site.encode()])
    write_labels(
        folder / site,
        random.integers(0, 3, (pairs["images"], *size), dtype=np.uint8),
        site=changes.get("site", site),
        experiment=simulation.federation,
        spacing=(2.0, 1.5),
        slice_axis=0,
        label_names=changes.get("names", NAMES),
    )
    files = {name: (folder / site / name).read_bytes() for name in ("labels.bin", "labels.json")}
    sent = Parcel(sender=site, stage="label_public", key="a" * 64, files=files, result={})
    return sign(sent, "labels.json", key_of(folder, changes.get("signer", site)))


@pytest.fixture
def pool(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> tuple[Simulation, PoolParty]:
    simulation = phantom_simulation(2)
    party = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    for site in simulation.sites:
        key = key_of(tmp_path, site).public_key().public_bytes_raw()
        asyncio.run(party.trust(site, key))
    return simulation, party


def taken(pool: PoolParty, site: str, parcel: Parcel) -> LabelsReceipt:
    return asyncio.run(pool.take_labels(site, parcel))


def test_labels_get_their_images_back_from_the_seed(
    pool: tuple[Simulation, PoolParty], tmp_path: Path
) -> None:
    simulation, party = pool
    sent = labelled(simulation, "site-1", tmp_path)
    receipt = taken(party, "site-1", sent)
    assert (receipt.key, receipt.images, receipt.reason) == (sent.key, 24, None)
    (folder,) = (party.store.root / "stages").glob("pair_public-*")
    found = read_release(folder, site="site-1", experiment=simulation.federation)
    seed = public_pairs("s", {}, "f", simulation.experiment)["images_seed"]
    np.testing.assert_array_equal(found.images_NCHW, draw_public_images(24, 1, (20, 28), seed))
    assert found.labels_NHW.tobytes() == sent.files["labels.bin"]
    assert taken(party, "site-1", sent) == receipt


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": "site-2"},
        {"site": "site-2"},
        {"names": {"background": 0, "organ": 1, "mass": 2}},
    ],
)
def test_labels_that_are_not_the_sites_or_the_tasks_are_quarantined(
    pool: tuple[Simulation, PoolParty], tmp_path: Path, changes: dict[str, Any]
) -> None:
    simulation, party = pool
    receipt = taken(party, "site-1", labelled(simulation, "site-1", tmp_path, **changes))
    assert receipt.key is None
    assert receipt.reason
    (kept,) = (party.store.root / "quarantine").iterdir()
    assert (kept / "reason.txt").read_text().strip() == receipt.reason


def test_a_release_is_no_labels_and_labels_are_no_release(
    pool: tuple[Simulation, PoolParty], tmp_path: Path
) -> None:
    simulation, party = pool
    assert taken(party, "site-1", release_of(simulation, "site-1", tmp_path)).key is None
    labels = labelled(simulation, "site-2", tmp_path)
    assert take(party, "site-2", labels).outcome == "refused"
    assert take(party, "site-2", replace(labels, stage="release")).outcome == "refused"


def test_regions_that_are_not_made_of_the_labels_are_refused(
    pool: tuple[Simulation, PoolParty], tmp_path: Path
) -> None:
    simulation, party = pool
    sent = labelled(simulation, "site-1", tmp_path)
    manifest = json.loads(sent.files["labels.json"]) | {"regions": [["organ", [1, 99]]]}
    files = {**sent.files, "labels.json": json.dumps(manifest).encode()}
    spoilt = sign(replace(sent, files=files), "labels.json", key_of(tmp_path, "site-1"))
    receipt = taken(party, "site-1", spoilt)
    assert receipt.key is None
    assert "regions" in str(receipt.reason)


def test_no_generator_and_no_release_is_in_the_models_of_public_images(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(asked(phantom_simulation(3), *SETTINGS), tmp_path)
    steps = {step.key: step for step in found.steps}

    def ancestors(key: str) -> set[str]:
        inputs = steps[key].call.inputs.values() if key in steps else ()
        return {one.stage for one in inputs}.union(*(ancestors(one.key) for one in inputs))

    for regime in SETTINGS:
        made = [s for s in found.steps if s.purpose == regime and s.stage.startswith("train_")]
        assert len(made) == (1 if regime == "general-public" else 3)
        for step in made:
            assert "label_public" in ancestors(step.key)
            assert not {"train_generator", "synthesise", "release"} & ancestors(step.key)
    scored = {(s.regime, s.train_site, s.test_site) for s in found.outcome.scores}
    for regime, models in zip(SETTINGS, (1, 3, 3), strict=True):
        assert sum(name == regime for name, _, _ in scored) == 3 * models


def test_the_steps_are_those_of_the_same_regimes_on_releases(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(asked(phantom_simulation(2), "personalised", *SETTINGS), tmp_path)
    for regime in SETTINGS:
        of_releases, public = (
            [
                (step.stage, step.call.params["epochs"], step.call.params["iterations"])
                for step in found.steps
                if step.purpose == name and step.stage in {"train_general", "train_segmenter"}
            ]
            for name in (regime.removesuffix("-public"), regime)
        )
        assert of_releases == public


def test_device_time_of_public_regimes_holds_no_generator() -> None:
    assert purposes_of("general-public", "local") == {"general-public", "public", "local"}
    assert "release" in purposes_of("general", "local")


def without_a_release(store: str) -> None:
    """A run in which site-2 withholds its images, and labels public ones all the same."""
    os.environ[toys.WITHHOLDS] = "site-2"
    toys.federate(store, settings=SETTINGS)


@pytest.mark.slow
def test_a_site_that_withholds_its_images_still_labels_public_ones(
    start: Start, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = start(store, str(store), program=without_a_release)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == 0, said
    assert len(list(store.glob("pool/received/*/label_public-*/record.json"))) == 3
    sent = {file.name for file in store.glob("pool/received/*/label_public-*/[!.]*")}
    assert sent == {"labels.bin", "labels.json", "labels.sig", "record.json"}
    rows = read_results(store / "table.csv")
    for regime in SETTINGS[1:]:
        assert {r.train_site for r in rows if r.regime == regime} == {"site-1", "site-2", "site-3"}


def test_pairs_of_another_size_than_their_labels_are_never_drawn(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Each site's images come in the size that its masks have."""
    simulation = phantom_simulation(2)
    for site, size in {"site-1": (20, 28), "site-2": (33, 17)}.items():
        labelled(simulation, site, tmp_path, size=size)
        pairs = public_pairs(site, simulation.dataset, simulation.federation, simulation.experiment)
        out = tmp_path / f"pairs of {site}"
        pair_public(Context(out=out, owner="pool"), labels=tmp_path / site, **pairs)
        found = read_release(out, site=site, experiment=simulation.federation)
        assert found.images_NCHW.shape[2:] == size
