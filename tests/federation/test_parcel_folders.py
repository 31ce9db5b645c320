"""Case 21, parcels as folders: who is killed while one is written finds the older, or writes again.

Each test kills its writer before the first change of a file, before the second and so on, until
one gets through.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parcels import Parcel, check_parcel
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.parcel_folders import check_out, read_parcel, write_parcel
from hyfree_ray.federation.replay_folders import (
    LIST_FILE,
    check_shared_out,
    remove_shared,
    write_shared,
)
from tests.refusals import refuses

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}
"""As Python's audit hooks hear of them, before they are done."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written outlives the process that wrote it, be it on the disk or not."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def parcel(key: str, stage: str = "train_general", **files: bytes) -> Parcel:
    named = {name.replace("_", "/"): content for name, content in files.items()}
    return Parcel(sender="pool", stage=stage, key=key * 64, files=named, result={"of": key})


OLDER = parcel("a", model_weights=b"older", model_plans=b"{}", arrow=b"pixels")
NEWER = parcel("b", model_weights=b"newer", model_plans=b"[]", notice=b"withheld")


def is_killed(after: int, act: Callable[[], None]) -> bool:
    """Act in a process that gets SIGKILL after so many changes; whether it got that far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside others' threads
        child = os.fork()
    if child == 0:
        changes = itertools.count()

        def count(event: str, _: tuple[object, ...]) -> None:
            if event in CHANGES and next(changes) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            act()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def files_in(folder: Path) -> list[str]:
    """Files, and folders that hold none."""
    found = [p for p in folder.rglob("*") if p.is_file() or not any(p.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in found)


def whole(folder: Path) -> Parcel | None:
    try:
        return read_parcel(folder)
    except HyfreeError:
        return None


@pytest.mark.parametrize("before", [None, OLDER], ids=["new", "older"])
def test_a_parcel_is_the_older_or_the_newer_or_none_and_the_same_command_writes_it(
    tmp_path: Path, before: Parcel | None
) -> None:
    states = []
    for after in itertools.count():
        folder = tmp_path / str(after)
        if before is not None:
            write_parcel(folder, before)
            (folder / "model" / "notes.txt").write_text("mine")
        killed = is_killed(after, lambda: write_parcel(folder, NEWER))  # noqa: B023 - at once
        states.append(whole(folder))
        if after % 3 == 0:  # killed again
            is_killed(after // 2, lambda: write_parcel(folder, NEWER))  # noqa: B023 - at once
        check_out(folder, NEWER.sender, NEWER.stage)
        write_parcel(folder, NEWER)
        assert read_parcel(folder) == NEWER
        mine = [] if before is None else ["model/notes.txt"]
        assert files_in(folder) == sorted([*NEWER.files, "parcel.json", *mine])
        if not killed:
            break
    changed = states.index(NEWER)
    assert all(state in (before, None) for state in states[:changed])
    assert all(state == NEWER for state in states[changed:])
    assert states.count(None) < len(states) if before is None else states.count(None) < 20
    assert states[0] == before
    assert states.count(before) > 10


def test_releases_that_are_handed_out_are_those_of_one_model_or_written_again(
    tmp_path: Path,
) -> None:
    release = parcel("c", stage="release", arrow=b"pixels")
    older = ReplaySet(sites=("A",), parcels=(release,))
    newer = ReplaySet(sites=("B",), parcels=(release,))
    for write in (lambda folder: write_shared(folder, newer, NEWER), remove_shared):
        for after in itertools.count():
            folder = tmp_path / write.__name__ / str(after)
            write_shared(folder, older, OLDER)
            killed = is_killed(after, lambda: write(folder))  # noqa: B023 - at once
            if (folder / LIST_FILE).is_file():
                is_older = OLDER.key in (folder / LIST_FILE).read_text()
                assert read_parcel(folder / ("A" if is_older else "B")) == release
            check_shared_out(folder)
            write(folder)
            if write is remove_shared:
                assert not folder.exists()
            else:
                assert files_in(folder) == ["B/arrow", "B/parcel.json", LIST_FILE]
            if not killed:
                break
        assert after > 10


def test_what_was_not_written_by_its_sender_stays_and_is_refused(tmp_path: Path) -> None:
    write_parcel(tmp_path / "p", OLDER)
    for sender, stage in (("site-1", OLDER.stage), (OLDER.sender, "release")):
        with refuses("output.not-empty", str(tmp_path / "p")):
            check_out(tmp_path / "p", sender, stage)
    assert read_parcel(tmp_path / "p") == OLDER


def test_a_parcel_that_cannot_be_written_leaves_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parcel(tmp_path / "p", OLDER)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("p", "q/r"):
        with refuses("output.not-writable", f"{name}: ", "No space left"):
            write_parcel(tmp_path / name, NEWER)
    assert read_parcel(tmp_path / "p") == OLDER
    assert files_in(tmp_path / "p") == sorted([*OLDER.files, "parcel.json"])
    assert not (tmp_path / "q" / "r").exists()


@pytest.mark.parametrize("link", ["model", "model/plans", "parcel.json"])
def test_no_link_in_a_parcel_is_followed(tmp_path: Path, link: str) -> None:
    """Case 106: neither a file's nor that of a folder on its way."""
    folder, private = tmp_path / "parcel", tmp_path / "private"
    write_parcel(folder, OLDER)
    (folder / link).rename(private)
    (folder / link).symlink_to(private)
    with refuses("parcel.damaged"):
        read_parcel(folder)


def test_no_link_in_the_pools_folder_of_releases_is_followed(tmp_path: Path) -> None:
    """Case 106: there a whole parcel may be a link to another."""
    write_parcel(tmp_path / "private", OLDER)
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "A").symlink_to(tmp_path / "private")
    read_parcel(tmp_path / "releases" / "A")  # named by ourselves
    with refuses("parcel.damaged"):
        read_parcel(tmp_path / "releases" / "A", below=tmp_path / "releases")


@pytest.mark.parametrize(
    ("one", "other"),
    [("plans.json", "Plans.json"), ("model/a", "Model/b"), ("\u00e9.txt", "e\u0301.txt")],
)
def test_two_names_that_are_one_file_on_some_disks_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    """Case 106."""
    both = Parcel(
        sender="pool", stage="release", key="a" * 64, files={one: b"1", other: b"2"}, result={}
    )
    with refuses("parcel.bad-name"):
        check_parcel(both)
