"""A stage that tries to open another party's files is stopped. A guard against mistakes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.execution import execute
from hyfree_ray.core.files import write_bytes
from hyfree_ray.core.guard import Confinement, check_path, confined
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.core.store_root import open_root
from hyfree_ray.core.untrusted import read_untrusted
from tests.refusals import refuses

WAYS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: path.read_bytes(),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "numpy": lambda path: np.load(path, allow_pickle=False),
    "by a link": lambda path: (path.parents[3] / "link").read_bytes(),
    "by ..": lambda path: (path.parents[1] / "site-1" / ".." / "site-2" / path.name).read_bytes(),
    "as bytes": lambda path: open(os.fsencode(path)).read(),  # noqa: PTH123, SIM115
    "list": lambda path: os.listdir(path.parent),  # noqa: PTH208
    "scan": lambda path: list(path.parent.iterdir()),
    "untrusted": lambda path: read_untrusted(path, most=1 << 20),
    "write": lambda path: (path.parent / "new").write_text("x"),
    "declared": check_path,
}


@stage(version=1)
def wander(context: Context, *, mine: Path, theirs: str, way: str) -> dict[str, Any]:
    """Reads its own, then what a mistake made it look for elsewhere."""
    assert np.load(mine / "image.npy").shape == (3, 2)
    assert read_untrusted(mine / "image.npy", most=1 << 20)
    (context.out / "done").write_text("x")
    WAYS[way](Path(theirs))
    return {}


@stage(version=1)
def forgive(context: Context, *, theirs: str) -> dict[str, Any]:
    """Passes over whatever goes wrong."""
    try:
        Path(theirs).read_bytes()
    except Exception:
        return {"found": "nothing"}
    return {"found": "all"}


@stage(version=1)
def tidy(context: Context, *, mine: Path) -> dict[str, Any]:
    """Tries to write into its input."""
    (mine / "extra").write_text("x")
    return {}


@stage(version=1, private=("cases",))
def read_raw(context: Context, *, data: Path, cases: list[Any], file: str) -> dict[str, Any]:
    """Reads a file of a raw data set that several sites share."""
    return {"bytes": len((data / file).read_bytes())}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two sites in one store, each with an image; a link from outside to the second's."""
    root = tmp_path / "store"
    open_root(root)
    for site in ("site-1", "site-2"):
        folder = root / "sites" / site
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", np.zeros((3, 2)))
    (tmp_path / "link").symlink_to(root / "sites" / "site-2" / "image.npy")
    return root


def run(store: Path, one: Any, **arguments: Any) -> dict[str, Any]:
    call = one.call(**arguments)
    folder = store / "sites" / "site-1" / "stages" / call.stage
    return execute(__name__, call, folder, owner="site-1", device="cpu")


def mine(store: Path) -> Artifact:
    return Artifact(stage="prepare", key="m" * 64, path=store / "sites" / "site-1")


def theirs(store: Path) -> str:
    return str(store / "sites" / "site-2" / "image.npy")


@pytest.mark.parametrize("way", WAYS)
def test_a_stage_that_opens_another_sites_file_is_stopped(store: Path, way: str) -> None:
    with refuses("privacy.foreign-file", "site-1: ", " wander ") as caught:
        run(store, wander, mine=mine(store), theirs=theirs(store), way=way)
    message = str(caught.value)
    assert "site-2" not in message
    assert str(store) not in message
    assert not (store / "sites" / "site-1" / "stages" / "wander" / "record.json").exists()
    assert not (store / "sites" / "site-2" / "new").exists()


def test_a_stage_that_passes_over_the_refusal_fails_all_the_same(store: Path) -> None:
    with refuses("privacy.foreign-file", "forgive"):
        run(store, forgive, theirs=theirs(store))


def test_a_stage_writes_into_its_own_folder_only(store: Path) -> None:
    with refuses("privacy.foreign-file", "tidy"):
        run(store, tidy, mine=mine(store))
    assert not (store / "sites" / "site-1" / "extra").exists()


@pytest.mark.parametrize("started_in", [".", "sites/site-2"])
def test_its_own_files_and_those_outside_of_the_store_are_free(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_in: str
) -> None:
    monkeypatch.chdir(store / started_in)
    np.save(tmp_path / "elsewhere.npy", np.zeros(1))
    arguments = {"mine": mine(store), "theirs": str(tmp_path / "elsewhere.npy"), "way": "numpy"}
    assert run(store, wander, **arguments).result == {}


def test_of_a_shared_raw_data_set_a_site_reads_its_own_cases_only(
    store: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    (raw / "imagesTr").mkdir(parents=True)
    for name in ("a", "b", "a_label"):
        write_bytes(raw / "imagesTr" / f"{name}.png", name.encode())
    data = Artifact(stage="data", key="d" * 64, path=raw)
    cases = [{"images": ["imagesTr/a.png"], "label": "imagesTr/a_label.png"}]
    for file in ("imagesTr/a.png", "imagesTr/a_label.png"):
        assert run(store, read_raw, data=data, cases=cases, file=file).result["bytes"] > 0
        (store / "sites" / "site-1" / "stages" / "read_raw" / "record.json").unlink()
    with refuses("privacy.foreign-file", "read_raw"):
        run(store, read_raw, data=data, cases=cases, file="imagesTr/b.png")


def test_other_threads_and_what_comes_after_a_stage_are_not_held_to_it(store: Path) -> None:
    other = store / "sites" / "site-2" / "image.npy"
    seen: list[int] = []
    scope = Confinement(owner="site-1", stage="s", zone=[store], own=[], out=store / "x")
    with confined(scope):
        reader = threading.Thread(target=lambda: seen.append(len(other.read_bytes())))
        reader.start()
        reader.join()
        assert sys.stdin is not None
    assert seen == [len(other.read_bytes())]
