"""What a stage made is on the disk, its owner's alone and known by its hash before it is vouched
for."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.core import sealing
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.execution import execute
from hyfree_ray.core.files import as_the_user_writes, write_bytes, writing_to
from hyfree_ray.core.records import RECORD, StageRecord, load_record
from hyfree_ray.core.sealing import SUMS_FILE, seal, sums_of
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.core.store import Store
from hyfree_ray.core.store_root import open_root
from tests.refusals import refuses


@pytest.fixture(autouse=True)
def as_a_user_who_shares() -> Any:
    """The mask that most systems come with."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@stage(version=1)
def draw(context: Context, *, many: int) -> dict[str, Any]:
    """Writes files as libraries do, some with modes of their own."""
    (context.out / "images").mkdir()
    for number in range(many):
        np.save(context.out / "images" / f"{number}.npy", np.arange(number + 1))
    (context.out / "images" / "0.npy").chmod(0o644)
    return {"many": many}


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("many", [3, 100], ids=["few", "many"])
def test_everything_in_a_store_is_its_owners_alone(tmp_path: Path, many: int) -> None:
    """Case 109: also where the store lay open before, and where a library set a file's mode."""
    root = tmp_path / "store"
    root.mkdir(mode=0o755)
    open_root(root)
    folder = Store(root / "sites" / "A", "A", {}).folder("draw", "k" * 64)
    execute(__name__, draw.call(many=many), folder, owner="A", device="cpu")
    assert modes(root) == {0o700, 0o600}
    with writing_to(tmp_path / "out"):  # what is handed out is as the user writes
        (tmp_path / "out").write_text("")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644
    with as_the_user_writes():
        pass
    (root / "later").write_text("")
    assert stat.S_IMODE((root / "later").stat().st_mode) == 0o600


def test_outputs_and_the_folders_that_name_them_are_synced_before_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 110: in the order of what a power cut could leave."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    execute(__name__, draw.call(many=2), tmp_path / "out", owner="A", device="cpu")
    record = next(n for n, name in enumerate(synced) if name.startswith(f".{RECORD}"))
    for name in ("0.npy", "1.npy", "images", "out"):
        assert synced.index(name) < record
    assert synced.index("1.npy") < synced.index("images")


def test_many_files_are_synced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 110: a sync a file would take minutes for thousands of slices."""
    for number in range(sealing._MANY + 1):
        (tmp_path / f"{number}").write_text("x")
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    seal(tmp_path)
    assert len(calls) == 2  # of the list of hashes and its folder


def test_hashes_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    """Case 110."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "ü.bin").write_bytes(b"pixels")
    (tmp_path / ".lock").write_bytes(b"")
    outputs = seal(tmp_path)
    assert list(sums_of(tmp_path, outputs)) == ["a b/ü.bin"]
    subprocess.run(["sha256sum", "--quiet", "-c", SUMS_FILE], cwd=tmp_path, check=True)


@pytest.mark.parametrize("change", ["content", "empty", "added", "list"])
def test_what_changed_after_its_stage_ended_does_not_leave(tmp_path: Path, change: str) -> None:
    """Case 110: an empty file after a power cut, or another's content, is not exported."""
    store = Store(tmp_path, "A", {"draw": ("images/*",)})
    folder = store.folder("draw", draw.call(many=2).key)
    execute(__name__, draw.call(many=2), folder, owner="A", device="cpu")
    record = load_record(folder, StageRecord)
    made = Artifact(stage="draw", key=record.key, path=folder, record=record)
    assert len(store.export(made).files) == 2
    if change == "content":
        (folder / "images" / "1.npy").write_bytes(b"real image")
    elif change == "empty":
        os.truncate(folder / "images" / "1.npy", 0)
    elif change == "added":
        (folder / "images" / "2.npy").write_bytes(b"real image")
    else:
        (folder / SUMS_FILE).unlink()
    with refuses("store.changed"):
        store.export(made)


def test_a_link_of_the_name_of_a_half_written_file_is_not_followed(tmp_path: Path) -> None:
    """Case 106: as somebody could put into a folder that many write to."""
    (tmp_path / "mine").write_bytes(b"keep")
    (tmp_path / f".manifest.json.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        write_bytes(tmp_path / "manifest.json", b"{}")
    assert (tmp_path / "mine").read_bytes() == b"keep"
