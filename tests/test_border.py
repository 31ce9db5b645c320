"""All that leaves the hospitals in a whole run is walked, and searched for what may not."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import shutil
import struct
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray import protocol
from hyfree_ray.config import resolve_experiment
from hyfree_ray.phantom import PHANTOM_VERSION, phantom_cohort
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import draw_until, quantise
from hyfree_ray.release import read_release, write_release
from hyfree_ray.runners.local import LocalParty, LocalRunner
from hyfree_ray.scores import POOL
from hyfree_ray.simulation import Simulation, sites_of
from hyfree_ray.store import Parcel
from tests.canaries import Canaries, is_pickle
from tests.privacy.test_memorization import images, measures
from tests.release_files import EXPERIMENT, METADATA, ROUND, SITE


class Wire:
    """A party in this process; whatever it is called with and answers is kept."""

    def __init__(self, party: Any, crossed: list[tuple[str, Any]]) -> None:
        self.name = party.name
        self.party = LocalParty(party)
        self.crossed = crossed

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(self._call(method, arguments))

    async def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        ready = [await a if isinstance(a, asyncio.Future) else a for a in arguments]
        self.crossed += [(f"{self.name}.{method}", argument) for argument in ready]
        result = await self.party.call(method, *ready)
        self.crossed.append((f"{self.name}.{method}", result))
        return result


def simulation(folder: Path) -> Simulation:
    """The run of the fixture `whole`."""
    experiment, _ = resolve_experiment(budget="smoke", generator=None, device="cpu")
    cohort = phantom_cohort(experiment.budget.phantom_sites, experiment.seed, folder)
    drawn = {
        name: {"index": int(name.removeprefix("site-")), "seed": 0, "phantom": PHANTOM_VERSION}
        for name in cohort.sites
    }
    found = sites_of(cohort, experiment.fold, phantom=drawn)
    return Simulation(cohort=cohort.name, sites=found, experiment=experiment)


@pytest.fixture(scope="module")
def store(whole: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished run, at another place."""
    copy = tmp_path_factory.mktemp("border") / "store"
    shutil.copytree(whole[0], copy)
    return copy


@pytest.fixture(scope="module")
def crossed(store: Path) -> list[tuple[str, Any]]:
    """Every argument and every answer of the whole protocol and its observers, in order."""
    run, runner = simulation(store), LocalRunner("cpu")
    before = sorted(store.glob("**/stages/*/record.json"))
    wires: list[tuple[str, Any]] = []
    parties = {name: Wire(run.party(name, store, runner), wires) for name in run.party_names}

    async def all_of_it() -> None:
        await protocol.simulate(parties, settings=run.experiment.settings)
        for party in parties.values():
            await party.call("status", frozenset(), frozenset())
        for site in run.sites:
            await parties[POOL].call("picture", site)

    asyncio.run(all_of_it())
    assert sorted(store.glob("**/stages/*/record.json")) == before  # nothing was run anew
    return wires


@pytest.fixture(scope="module")
def canaries(store: Path) -> Canaries:
    return Canaries.of(store / "sites")


def contents(value: Any) -> Iterator[tuple[str, bytes]]:
    """What a value is made of, as bytes. Anything that is not known to be data is an error."""
    if isinstance(value, Parcel):
        yield from value.files.items()
        yield from contents([value.sender, value.stage, value.key, dict(value.result)])
    elif isinstance(value, bytes):
        yield "bytes", value
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith("hyfree_ray"):
        for field in dataclasses.fields(value):
            yield from contents(getattr(value, field.name))
    elif isinstance(value, (tuple, list)) and any(isinstance(one, Parcel) for one in value):
        for one in value:
            yield from contents(one)
    elif not isinstance(value, frozenset):
        yield "json", json.dumps(value, allow_nan=False).encode()


def test_nothing_real_crosses_in_a_whole_run(
    crossed: list[tuple[str, Any]], canaries: Canaries
) -> None:
    """Cases 91 and 92: every message between the parties, and to the observers."""
    kinds = set()
    for where, value in crossed:
        for name, content in contents(value):
            kinds.add(name)
            assert canaries.found(content) == [], (where, name)
            assert not is_pickle(content), (where, name)
    assert {"release.arrow", "manifest.json", "model/weights.safetensors", "json"} <= kinds


def test_nothing_real_lies_outside_of_the_sites_folders(store: Path, canaries: Canaries) -> None:
    """Cases 91 and 92: the pool's store, `runs/` and MLflow's."""
    outside = [
        path
        for path in store.rglob("*")
        if path.is_file() and path.relative_to(store).parts[0] not in {"sites", "oracle"}
    ]
    seen = {path.name for path in outside}
    assert {"mlflow.db", "release.arrow", "results.csv", "summary.json", "site-1.png"} <= seen
    for path in outside:
        # The pool's own stages name their own files and keep checkpoints of torch.
        own = ("path", "pickle") if "stages" in path.parts else ("pickle",)
        assert canaries.found(path.read_bytes(), but=own) == [], path
        if "stages" not in path.parts:
            assert not is_pickle(path.read_bytes()), path


def test_the_ledger_has_every_parcel_that_crossed(
    store: Path, crossed: list[tuple[str, Any]]
) -> None:
    """Who sent what to whom, how many bytes, which hash: in the summary and in MLflow."""
    (path,) = store.glob("runs/*/summary.json")
    ledger = json.loads(path.read_text())["ledger"]
    told = {(entry["from"], entry["stage"], entry["key"], entry["sha256"]) for entry in ledger}
    parcels = [value for _, value in crossed if isinstance(value, Parcel)]
    releases = [parcel for parcel in parcels if "release.arrow" in parcel.files]
    assert releases
    for parcel in parcels:
        assert (parcel.sender, parcel.stage, parcel.key, parcel.sha256) in told or not any(
            entry["key"] == parcel.key for entry in ledger
        )
    for parcel in releases:
        mine = [entry for entry in ledger if entry["key"] == parcel.key and entry["to"] == POOL]
        assert [(e["from"], e["bytes"]) for e in mine] == [(parcel.sender, parcel.bytes)]
    shown = [json.loads(file.read_text()) for file in store.glob("mlartifacts/**/summary.json")]
    assert ledger in [summary["ledger"] for summary in shown]


# ---- the scan itself: each kind is found where it is planted ----


def release_of(images_NCHW: np.ndarray, folder: Path) -> bytes:
    labels_NHW = np.zeros((len(images_NCHW), *images_NCHW.shape[2:]), np.uint8)
    metadata = dataclasses.replace(METADATA, channel_names=("T1",), scale=(1.0,), offset=(0.0,))
    write_release(
        folder,
        metadata,
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n",
    )
    return (folder / "release.arrow").read_bytes()


@pytest.mark.parametrize("kind", ["case", "path", "distance", "pixels", "pickle"])
def test_the_scan_finds_each_kind_of_bytes(canaries: Canaries, kind: str) -> None:
    for canary in (canaries.bytes_[kind][0], canaries.bytes_[kind][-1]):
        assert kind in canaries.found(b"some text before" + canary + b"and after")
    assert canaries.found(b"nothing to see: 0.05, site-1, 48 images") == []


def test_the_scan_finds_copies_and_near_copies_in_a_release(
    canaries: Canaries, tmp_path: Path
) -> None:
    real = canaries.real_NCHW[0][3:4]
    rng = np.random.default_rng(0)
    fresh = rng.integers(0, 256, (3, *real.shape[1:]), dtype=np.uint8)
    near = np.clip(real.astype(int) + rng.integers(-3, 4, real.shape), 0, 255).astype(np.uint8)
    assert canaries.found(release_of(fresh, tmp_path / "fresh")) == []
    for number, planted in enumerate((real, near)):
        file = release_of(np.concatenate([fresh, planted]), tmp_path / str(number))
        assert "copy" in canaries.found(file)


def test_pickles_are_known_by_their_start() -> None:
    import pickle

    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream)
    assert is_pickle(stream.getvalue())
    assert is_pickle(pickle.dumps([1, 2]))
    assert not is_pickle(struct.pack("<d", 0.5))


# ---- rejected samples ----


def test_pixels_of_rejected_samples_are_not_in_a_releases_bytes(tmp_path: Path) -> None:
    """Cases 91 and 92: a slice of an Arrow table would carry the rows that were left out."""
    real, fresh = images(40, 0), images(80, 7)
    rule = MemorisationFilter.calibrate(real, np.arange(40), measures(), percentile=5)
    drawn_NCHW = np.concatenate([fresh, real])[np.random.default_rng(1).permutation(120)]

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        yield drawn_NCHW[start : start + count]

    drawn = draw_until(60, draw, rule, max_rejection_rate=0.5)
    content = release_of(drawn.accepted_NCHW, tmp_path)
    kept = {image.tobytes() for image in drawn.accepted_NCHW}
    seen = quantise(drawn_NCHW[: drawn.drawn])
    dropped = [image for image in seen if image.tobytes() not in kept]
    assert len(dropped) >= 15
    for image_CHW in dropped:
        for top in range(0, image_CHW.shape[1] - 4, 4):
            assert image_CHW[:, top : top + 4].tobytes() not in content
    release = read_release(tmp_path, site=SITE, experiment=EXPERIMENT, round_number=ROUND)
    with pa.ipc.open_file(content) as reader:
        rows = sum(reader.get_batch(k).num_rows for k in range(reader.num_record_batches))
    assert rows == len(release.images_NCHW) == len(drawn.accepted_NCHW)
