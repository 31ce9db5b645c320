"""All that leaves the hospitals in a whole run on Ray is walked, and searched for what may not."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
import json
import pickle
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image
from rich.console import Console

from hyfree_ray.border.release import read_release
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, draw_phantom_site, phantom_cohort
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.core.records import StageRecord
from hyfree_ray.evaluation.regimes import trained_by
from hyfree_ray.federation import protocol
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.patient_risk import measure_risk
from hyfree_ray.federation.simulation import Simulation, sites_of
from hyfree_ray.observing.observer import Observer
from hyfree_ray.observing.progress import Progress
from hyfree_ray.observing.run_folder import write_run
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import draw_until, quantise
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_parties import RayParty, start_parties
from tests.canaries import RANKED, Canaries, is_pickle
from tests.privacy.test_memorization import by_features, images
from tests.release_files import EXPERIMENT, ROUND, SITE, release_of

BROKEN = "clinic"
"""A hospital whose patients have numbers of their own, and one of whose files is damaged."""


@dataclass(frozen=True)
class Crossing:
    """One call of a party's actor."""

    receiver: str
    method: str
    arguments: tuple[Any, ...]
    answer: Any


class Wire:
    """A party's actor; what it is called with and what it answers stays in Ray's object store."""

    def __init__(self, name: str, party: RayParty, calls: list[Crossing]) -> None:
        self.name, self.party, self.calls = name, party, calls

    def call(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Awaitable[Any]:
        answer = self.party.call(method, *arguments)
        self.calls.append(Crossing(self.name, method.__name__, arguments, answer))
        return answer

    async def make(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        answer = None  # what breaks is for the terminal that started it
        try:
            answer = await self.party.make(method, *arguments)
        finally:
            self.calls.append(Crossing(self.name, method.__name__, arguments, answer))
        return answer


def arrived(value: Any) -> Any:
    """What a promise became: read from the object store, an error as it would be handed on."""
    if not isinstance(value, ray.ObjectRef):
        return value
    try:
        return ray.get(value, timeout=60)
    except Exception as error:
        return error


def damaged_clinic(folder: Path) -> Site:
    """A third hospital; its second training image is cut short after it was checked."""
    draw_phantom_site(3, 0, folder)
    with (folder / "sites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {
        name: f"MRN-{7731904 + 37 * k}" for k, name in enumerate({r["patient"]: 0 for r in rows})
    }
    lines = [f"{row['case']},{BROKEN},{numbers[row['patient']]}" for row in rows]
    (folder / "sites.csv").write_text("\n".join(["case,site,patient", *lines]))
    site = sites_of(read_cohort(folder), 0)[BROKEN]
    image = folder / site.part("train")[1]["images"][0]
    image.write_bytes(image.read_bytes()[:200])
    return site


def simulation(folder: Path, clinic: Site) -> Simulation:
    """The run of the fixture `whole`, with a site more."""
    experiment, _ = resolve_experiment(budget="smoke", generator=None, device="cpu")
    cohort = phantom_cohort(experiment.budget.phantom_sites, experiment.seed, folder)
    drawn = {
        name: {"index": int(name.removeprefix("site-")), "seed": 0, "phantom": PHANTOM_VERSION}
        for name in cohort.sites
    }
    found = sites_of(cohort, experiment.fold, phantom=drawn)
    return Simulation(cohort=cohort.name, sites={**found, BROKEN: clinic}, experiment=experiment)


@dataclass(frozen=True)
class Walk:
    """A run that was listened to."""

    run: Simulation
    store: Path
    clinic: Path
    """The raw data set of the hospital that fails."""
    crossings: tuple[Crossing, ...]
    outcome: protocol.Outcome


@pytest.fixture(scope="module")
def walk(whole: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """The whole protocol and its observers on Ray, over what two sites have made already."""
    folder = tmp_path_factory.mktemp("border")
    store = folder / "store"
    shutil.copytree(whole[0], store)
    move_artifacts(store, whole[0].resolve())
    run = simulation(store, damaged_clinic(folder / "hospital"))
    connect("local", cpus=2)
    try:
        yield asyncio.run(walked(run, store, folder / "hospital"))
    finally:
        disconnect()


def move_artifacts(store: Path, before: Path) -> None:
    """MLflow's database names the folder that its artifacts lie in."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = REPLACE({column}, ?, ?)"
            database.execute(moved, (before.as_uri(), store.resolve().as_uri()))


async def walked(run: Simulation, store: Path, clinic: Path) -> Walk:
    calls: list[Crossing] = []
    actors = start_parties(run, store, "cpu")
    actors.pop(ORACLE)  # it reads everybody's data: it is no part of the border
    wires = {name: Wire(name, actor, calls) for name, actor in actors.items()}
    settings = [name for name in run.experiment.settings if name not in trained_by("oracle")]
    with Progress(run.party_names, 0, Console(quiet=True)) as progress:
        observer = Observer(run, store, progress)
        outcome = await protocol.simulate(wires, settings=settings, rules=Rules(min_sites=2))
        for site in ("site-1", "site-2"):
            await measure_risk(run.site_party(site, store, LocalRunner("cpu")))
        await observer.poll(wires, last=True)
        folder = store / "runs" / run.run
        await write_run(folder, run, observer.observed, outcome, wires)
        observer.show(folder)
    crossings = tuple(
        dataclasses.replace(
            one, arguments=tuple(map(arrived, one.arguments)), answer=arrived(one.answer)
        )
        for one in calls
    )
    return Walk(run, store, clinic, crossings, outcome)


@pytest.fixture(scope="module")
def canaries(walk: Walk) -> Canaries:
    return Canaries.of(walk.store / "sites", walk.clinic)


def contents(value: Any) -> Iterator[tuple[str, bytes]]:
    """What a value is made of, as bytes. Anything that is not known to be data is an error."""
    if isinstance(value, Parcel):
        yield from value.files.items()
        yield from contents([value.sender, value.stage, value.key, dict(value.result)])
    elif isinstance(value, StageRecord):
        yield from contents(value.model_dump(mode="json"))
    elif isinstance(value, bytes):
        yield "bytes", value
    elif isinstance(value, BaseException):
        yield "error", f"{value!r} {value} {value.args}".encode()
    elif dataclasses.is_dataclass(value) and type(value).__module__.startswith("hyfree_ray"):
        for field in dataclasses.fields(value):
            yield from contents(getattr(value, field.name))
    elif isinstance(value, (tuple, list)) and any(map(dataclasses.is_dataclass, value)):
        for one in value:
            yield from contents(one)
    elif isinstance(value, dict) and any(
        dataclasses.is_dataclass(one) or isinstance(one, bytes) for one in value.values()
    ):
        yield from contents([*value])
        for one in value.values():
            yield from contents(one)
    else:
        told = sorted(value) if isinstance(value, frozenset) else value
        yield "json", json.dumps(told, allow_nan=False).encode()


Leak = tuple[str, str, str]
"""Which call, what of it, which kind of canary."""


def leaks(crossings: Sequence[Crossing], canaries: Canaries) -> tuple[list[Leak], set[str]]:
    """What is wrong with the calls, and the names of all contents that were searched.

    What a site's own call breaks with is for the terminal that started it. It crosses where it is
    an argument of another call.
    """
    known: dict[bytes, list[str]] = {}
    found, seen = [], set()
    for one in crossings:
        answers = () if isinstance(one.answer, BaseException) else (one.answer,)
        for name, content in (pair for v in (*one.arguments, *answers) for pair in contents(v)):
            seen.add(name)
            if content not in known:
                pickled = ["pickle"] if is_pickle(content) else []
                known[content] = canaries.found(content) + pickled
            found += [(f"{one.receiver}.{one.method}", name, kind) for kind in known[content]]
    return found, seen


def test_nothing_real_crosses_in_a_whole_run(walk: Walk, canaries: Canaries) -> None:
    """Cases 91 and 92: all that actors were called with and answered, from the object store."""
    found, seen = leaks(walk.crossings, canaries)
    assert found == []
    assert {"release.arrow", "manifest.json", "model/weights.safetensors", "json", "bytes"} <= seen
    called = {(one.receiver, one.method) for one in walk.crossings}
    for site in ("site-1", "site-2"):
        for method in ("submit", "model", "score", "choose", "status"):
            assert (site, method) in called
    for method in ("take", "close", "model", "share_for_replay", "status", "picture"):
        assert (POOL, method) in called


def test_a_leak_is_found_in_whatever_a_call_carries(walk: Walk, canaries: Canaries) -> None:
    """The walk is no formality: each kind is planted, alone, in what really crossed."""
    take = next(one for one in walk.crossings if (one.receiver, one.method) == (POOL, "take"))
    site, parcel = take.arguments
    pixels, png = canaries.bytes_["pixels"][-1], io.BytesIO()
    Image.fromarray(canaries.real_NCHW[0][2, 0]).save(png, "PNG")
    path = f"{walk.store}/sites/{site}/stages/prepare-0/error.txt"
    planted: dict[str, Any] = {
        "case": dataclasses.replace(parcel, result={"note": canaries.bytes_["case"][3].decode()}),
        "patient": {"reason": f"patient {canaries.bytes_['patient'][-1].decode()} is odd"},
        "path": StageError(site, "prepare", "ValueError", path),
        "pixels": dataclasses.replace(parcel, files={"release.arrow": b"ARROW" + pixels}),
        "copy": png.getvalue(),
        "distance": ReplaySet(sites=(), parcels=(parcel, canaries.bytes_["distance"][5])),
        "pickle": pickle.dumps({"a": 1}),
    }
    for kind, value in planted.items():
        changed = dataclasses.replace(take, arguments=(site, value))
        found, _ = leaks([take, changed], canaries)
        assert kind in {leak[2] for leak in found}, kind


def test_the_ranking_of_patients_is_made_and_crosses_nowhere(
    walk: Walk, canaries: Canaries
) -> None:
    """Case 115: its numbers are among what the other tests search all crossings for."""
    rankings = sorted(walk.store.glob("sites/*/stages/patient_risk-*/risk.json"))
    assert [file.parents[2].name for file in rankings] == ["site-1", "site-2"]
    for file in rankings:
        numbers = [row[name] for row in json.loads(file.read_text()) for name in RANKED]
        long = [repr(v) for v in numbers if isinstance(v, float) and len(repr(v)) > 10]
        assert len(long) > 5
        assert {spelt[:12].encode() for spelt in long} <= set(canaries.bytes_["distance"])


def test_what_the_pool_is_made_of_holds_nothing_of_a_site(walk: Walk, canaries: Canaries) -> None:
    told = [walk.run.key, walk.run.federation, dict(walk.run.dataset)]
    told.append(walk.run.experiment.model_dump(mode="json"))
    assert canaries.found(json.dumps(told).encode()) == []


def test_nothing_real_lies_outside_of_the_sites_folders(walk: Walk, canaries: Canaries) -> None:
    """Cases 91 and 92: the pool's store, `runs/` (pictures, summary) and MLflow's artifacts."""
    store = walk.store
    outside = [
        path
        for path in store.rglob("*")
        if path.is_file() and path.relative_to(store).parts[0] not in {"sites", "oracle"}
    ]
    seen = {path.name for path in outside}
    assert {"mlflow.db", "release.arrow", "results.csv", "summary.json", "site-1.png"} <= seen
    assert len(list(store.glob("mlartifacts/**/*.png"))) >= 2
    for path in outside:
        # The pool's own stages name their own files and keep checkpoints of torch.
        own = ("path", "pickle") if "stages" in path.parts else ("pickle",)
        assert canaries.found(path.read_bytes(), but=own) == [], path
        if "stages" not in path.parts:
            assert not is_pickle(path.read_bytes()), path


# ---- the ledger ----

Entry = tuple[str, str, str, str, int, str]
"""From, to, stage, key, bytes, hash."""


def sent(walk: Walk) -> set[Entry]:
    """Every parcel that one party was called with and that another had made.

    But for a site's own release, which comes back to it among the others' and is not taken in.
    """
    found = set()
    for one in walk.crossings:
        for argument in one.arguments:
            parcels: tuple[Any, ...] = (argument,)
            if isinstance(argument, ReplaySet):
                pairs = zip(argument.sites, argument.parcels, strict=True)
                parcels = tuple(parcel for site, parcel in pairs if site != one.receiver)
            found |= {
                (p.sender, one.receiver, p.stage, p.key, p.bytes, p.sha256)
                for p in parcels
                if isinstance(p, Parcel) and p.sender != one.receiver
            }
    return found


def ledger(path: Path) -> set[Entry]:
    entries = json.loads(path.read_text())["ledger"]
    found = {(e["from"], e["to"], e["stage"], e["key"], e["bytes"], e["sha256"]) for e in entries}
    assert len(found) == len(entries)
    return found


def test_the_ledger_is_what_crossed_no_more_and_no_less(walk: Walk) -> None:
    """Who sent what to whom, how many bytes, which hash: in the summary and in MLflow."""
    summary = walk.store / "runs" / walk.run.run / "summary.json"
    told, crossed = ledger(summary), sent(walk)
    assert told - crossed == set(), "in the ledger, but nobody was sent it"
    assert crossed - told == set(), "sent, but not in the ledger"
    ways = {(sender, receiver, stage) for sender, receiver, stage, *_ in crossed}
    for one, other in (("site-1", "site-2"), ("site-2", "site-1")):
        assert (one, POOL, "release") in ways
        assert (POOL, one, "train_general") in ways
        assert (POOL, one, "release") in ways
        assert (one, other, "train_segmenter") in ways
    assert told in [ledger(file) for file in walk.store.glob("mlartifacts/**/summary.json")]


# ---- rejected samples ----


def test_pixels_of_rejected_samples_are_not_in_a_releases_bytes(tmp_path: Path) -> None:
    """Cases 91 and 92: a slice of an Arrow table would carry the rows that were left out."""
    real, fresh = images(40, 0), images(80, 7)
    rule = MemorisationFilter.calibrate(real, np.arange(40), by_features(), percentile=5)
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
