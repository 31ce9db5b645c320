"""The store's law: addresses, records, the border."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyfree_ray.core.artifacts import Artifact, Call
from hyfree_ray.core.files import locked, write_bytes
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.records import RECORD, ParcelRecord, StageRecord, find_record, write_record
from hyfree_ray.core.store import Store
from hyfree_ray.core.store_root import open_root
from tests.refusals import refuses
from tests.stage_records import stage_record


def call(**params: object) -> Call:
    return Call(stage="train", version=1, params=params)


def finish(store: Store, one: Call, files: dict[str, bytes]) -> Artifact:
    folder = store.folder(one.stage, one.key)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    write_record(folder, stage_record(key=one.key, result={"dice": 0.5}))
    return store.find(one)


def test_a_key_depends_on_name_version_parameters_and_input_keys() -> None:
    artifact = Artifact(stage="prepare", key="a" * 64, path=Path("/one"))
    base = Call(stage="train", version=1, params={"epochs": 2}, inputs={"prepared": artifact})
    other_input = Artifact(stage="prepare", key="b" * 64, path=Path("/one"))
    assert base.key != Call(stage="fit", version=1, params=base.params, inputs=base.inputs).key
    assert base.key != Call(stage="train", version=2, params=base.params, inputs=base.inputs).key
    assert base.key != Call(stage="train", version=1, params={"epochs": 3}, inputs=base.inputs).key
    assert (
        base.key
        != Call(stage="train", version=1, params=base.params, inputs={"prepared": other_input}).key
    )


def test_a_key_does_not_depend_on_where_the_store_is_or_on_the_order_of_parameters() -> None:
    here = Artifact(stage="prepare", key="a" * 64, path=Path("/here"))
    there = Artifact(stage="prepare", key="a" * 64, path=Path("/there"), record=stage_record())
    one = Call(stage="t", version=1, params={"a": 1, "b": 2}, inputs={"p": here})
    two = Call(stage="t", version=1, params={"b": 2, "a": 1}, inputs={"p": there})
    assert one.key == two.key


def test_a_folder_without_its_record_is_not_done(tmp_path: Path) -> None:
    store = Store(tmp_path, "site-1", {})
    store.folder("train", call().key).mkdir(parents=True)
    assert store.find(call()).record is None


@pytest.mark.parametrize("text", ["", "{", stage_record(key="another").model_dump_json()])
def test_a_broken_or_foreign_record_is_not_done(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert find_record(tmp_path, "mine", StageRecord) is None


def test_only_named_exports_leave(tmp_path: Path) -> None:
    store = Store(tmp_path, "site-1", {"release": ("release.arrow",)})
    secret = finish(store, call(epochs=1), {"view.npz": b"real"})
    with refuses("privacy.not-exported", "site-1: ", "'train'", "release"):
        store.export(secret)


def test_an_export_holds_the_named_files_only(tmp_path: Path) -> None:
    store = Store(tmp_path, "pool", {"train": ("model/*",)})
    made = finish(store, call(epochs=1), {"model/weights": b"w", "checkpoint": b"c"})
    parcel = store.export(made)
    assert parcel.files == {"model/weights": b"w"}
    assert parcel.bytes == 1


def test_a_parcel_received_twice_is_one_and_carries_its_hash(tmp_path: Path) -> None:
    """Case 31."""
    store = Store(tmp_path, "pool", {})
    parcel = Parcel(
        sender="site-1", stage="release", key="c" * 64, files={"a/b": b"x"}, result={"images": 1}
    )
    first, second = store.receive(parcel), store.receive(parcel)
    assert first == second
    assert (first.path / "a" / "b").read_bytes() == b"x"
    assert isinstance(first.record, ParcelRecord)
    assert first.record.sha256 == parcel.sha256


@pytest.mark.parametrize(
    "changes",
    [{"sender": "../site-2"}, {"sender": ".."}, {"stage": "a/b"}, {"key": "../" * 20 + "aaaa"}],
)
def test_a_parcels_own_names_cannot_leave_either(tmp_path: Path, changes: dict[str, str]) -> None:
    """Case 56."""
    named = {"sender": "site-1", "stage": "release", "key": "a" * 64, **changes}
    with refuses("parcel.bad-name"):
        Store(tmp_path, "pool", {}).receive(Parcel(files={"x": b""}, result={}, **named))


def test_other_content_under_the_same_key_is_refused_and_the_first_kept(tmp_path: Path) -> None:
    """Case 32."""
    store = Store(tmp_path, "pool", {})
    first, second = (
        Parcel(sender="site-1", stage="release", key="b" * 64, files={"x": text}, result={})
        for text in (b"one", b"two")
    )
    kept = store.receive(first)
    with refuses("parcel.contradicts", "site-1: "):
        store.receive(second)
    assert (kept.path / "x").read_bytes() == b"one"


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "/absolute", "a/../../b", "nul\0", "x" * 4096, "a/" * 2000 + "b",
        "", ".", "a/.", "a//b", "a/", ".lock", "record.json", "record.json/x", "taken/below",
    ],
)  # fmt: skip
def test_a_parcel_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    """Case 56."""
    files = {name: b"x", "taken": b"y"}
    parcel = Parcel(sender="site-1", stage="release", key="c" * 64, files=files, result={})
    with refuses("parcel.bad-name"):
        Store(tmp_path / "pool", "pool", {}).receive(parcel)
    assert list(tmp_path.iterdir()) == []


def test_a_final_name_never_holds_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_bytes(path, b"before")

    with pytest.raises(TypeError):
        write_bytes(path, object())  # type: ignore[arg-type]
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def _hold(folder: str, ready: object, release: object) -> None:
    with locked(Path(folder)):
        ready.set()  # type: ignore[attr-defined]
        release.wait()  # type: ignore[attr-defined]


def test_a_lock_dies_with_the_process_that_holds_it(tmp_path: Path) -> None:
    """Case 18: a stale lock is none."""
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    holder.start()
    assert ready.wait(30)
    holder.kill()
    holder.join()
    with locked(tmp_path, patience_s=0.01):
        pass


def test_taking_a_lock_cleans_what_a_crash_left_half_written(tmp_path: Path) -> None:
    (tmp_path / ".record.json.123.tmp").write_text("half")
    with locked(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    open_root(tmp_path / "store")
    marker = tmp_path / "store" / "store.json"
    marker.write_text(json.dumps({"store_version": 99}))
    with refuses("store.other-version", str(tmp_path / "store"), "99"):
        open_root(tmp_path / "store")


def test_a_folder_full_of_other_things_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("")
    with refuses("store.not-a-store", str(tmp_path), "--store"):
        open_root(tmp_path)


def test_who_opens_a_new_store_while_another_makes_it_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hospitals that are pinned to one new disk do, all at once."""
    root, others, fsync = tmp_path / "store", [], os.fsync
    code = (
        "import sys, pathlib; from hyfree_ray.core.store_root import open_root; "
        "open_root(pathlib.Path(sys.argv[1]))"
    )

    def meanwhile(descriptor: int) -> None:
        """The first has written its marker, under the name that it has while it is written."""
        if not others:
            assert [file.suffix for file in root.iterdir()] == [".tmp"]
            command = [sys.executable, "-c", code, str(root)]
            others.append(subprocess.run(command, capture_output=True, text=True, check=False))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    open_root(root)
    (other,) = others
    assert other.returncode == 0, other.stderr
    assert [file.name for file in root.iterdir()] == ["store.json"]


def test_what_a_process_leaves_that_was_killed_while_it_made_a_store_is_nothing(
    tmp_path: Path,
) -> None:
    for name in (".store.json.123.tmp", ".lock"):
        (tmp_path / name).touch()
    open_root(tmp_path, create=False)
    open_root(tmp_path)
    assert json.loads((tmp_path / "store.json").read_text())["store_version"] == 1


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for create in (True, False):
        for name in ("file", "link"):
            with refuses("store.not-writable", str(tmp_path / name / "store"), "--store"):
                open_root(tmp_path / name / "store", create=create)


@pytest.mark.parametrize("text", ["[1]", "1", "null", "{", "", '"\\ud800', "[" * 100_000])
def test_a_marker_that_is_none_of_ours_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    for create in (True, False):
        with refuses("store.not-a-store", "store.json"):
            open_root(tmp_path, create=create)


def test_looking_at_a_store_creates_nothing(tmp_path: Path) -> None:
    open_root(tmp_path / "store", create=False)
    assert not (tmp_path / "store").exists()
