"""The child that checks releases: what ends it is a reason to refuse, and ends nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hyfree_ray.border import release_guard
from hyfree_ray.border.manifest import read_manifest
from hyfree_ray.border.release import ReleaseMetadata
from hyfree_ray.border.release_guard import (
    ChildLimits,
    SubmittedRelease,
    check_release_file,
    check_releases,
)
from hyfree_ray.core.errors import ReleaseError
from tests.release_files import EXPERIMENT, ROUND, SITE, arrow, described, put, read, write

HOSTILE = """
import os, signal, sys, time
import hyfree_ray.border.release as module
honest = module.read_release
def read_release(folder, **known):
    if folder.name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if folder.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.name == "endless":
        while True:
            pass
    if folder.name == "asleep":
        time.sleep(600)
    if folder.name == "greedy":
        return [bytearray(1 << 24) for _ in range(1 << 10)]
    if folder.name == "odd":
        raise RuntimeError("never seen before")
    return honest(folder, **known)
module.read_release = read_release
"""


def first_runs(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have the child run this first."""
    monkeypatch.setattr(release_guard, "_PROGRAM", f"{text}\n{release_guard._PROGRAM}")


def handed(folder: Path) -> SubmittedRelease:
    return SubmittedRelease(folder=folder, site=SITE, experiment=EXPERIMENT, round_number=ROUND)


def rules(found: list[ReleaseMetadata | ReleaseError]) -> list[str | None]:
    return [one.rule if isinstance(one, ReleaseError) else None for one in found]


def test_good_releases_pass_and_bad_ones_are_refused_as_in_this_process(tmp_path: Path) -> None:
    write(tmp_path / "good")
    put(tmp_path / "text", b"hello")
    put(tmp_path / "other", arrow(), site="site-2")
    folders = [tmp_path / name for name in ("good", "text", "other", "absent", "good")]
    errors = check_releases([handed(folder) for folder in folders])
    assert rules(errors) == [None, "magic", "site", "missing", None]
    with pytest.raises(ReleaseError) as here:
        read(tmp_path / "text")
    assert str(errors[1]) == str(here.value)
    assert errors[0] == errors[4] == read(tmp_path / "good").metadata


def test_the_child_holds_the_file_to_the_manifest_that_was_read_before(tmp_path: Path) -> None:
    """Case 54: the folder's own may have been exchanged meanwhile, with the file."""
    write(tmp_path / "first")
    before = dataclasses.replace(
        handed(tmp_path / "first"), manifest=read_manifest(tmp_path / "first")
    )
    put(tmp_path / "first", described(spacing=[3.0, 3.0]))
    assert rules(check_releases([handed(tmp_path / "first"), before])) in (
        [None, "sha256"],
        [None, "bytes"],
    )


def test_whatever_ends_the_child_refuses_that_release_and_the_others_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 40: never a signal in the parent."""
    first_runs(monkeypatch, HOSTILE)
    names = ("good", "segfault", "good", "killed", "endless", "greedy", "asleep", "odd", "good")
    for name in set(names):
        write(tmp_path / name)
    begun = time.monotonic()
    errors = check_releases(
        [handed(tmp_path / name) for name in names], ChildLimits(memory_bytes=1 << 28, seconds=1)
    )
    assert rules(errors) == [
        None, "crash", None, "memory", "timeout", "memory", "timeout", "crash", None,
    ]  # fmt: skip
    assert time.monotonic() - begun < 30
    assert all("\n" not in str(error) for error in errors if isinstance(error, ReleaseError))


TALKING = """
import hyfree_ray.border.release as module
honest = module.read_release
def read_release(folder, **known):
    if folder.name != "good":
        print((folder / "said").read_text(), flush=True)
    return honest(folder, **known)
module.read_release = read_release
"""


@pytest.mark.parametrize(
    "said", ["libarrow: a warning", "", "7", "null", '["crash"]', "[1, 2]", '"{}"', "[" * 100_000]
)
def test_what_is_no_verdict_refuses_the_release_that_was_being_checked_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Case 40: as of a library that prints; what is said next is not taken for another's either."""
    first_runs(monkeypatch, TALKING)
    for name in ("good", "talking"):
        write(tmp_path / name)
    (tmp_path / "talking" / "said").write_text(said)
    found = check_releases([handed(tmp_path / name) for name in ("good", "talking", "good")])
    assert rules(found) == [None, "crash", None]
    assert "\n" not in str(found[1])


def test_a_child_that_cannot_start_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_runs(monkeypatch, "import os; os._exit(3)")
    write(tmp_path / "good")
    with pytest.raises(ChildProcessError, match="did not start"):
        check_releases([handed(tmp_path / "good")])


INTERRUPTED = """
import sys, time
import hyfree_ray.border.release as module
honest = module.read_release
def read_release(folder, **known):
    (folder / "seen").symlink_to("nowhere")
    time.sleep(1)
    return honest(folder, **known)
module.read_release = read_release
"""


def test_a_run_that_is_interrupted_does_not_refuse_the_release_it_was_checking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_runs(monkeypatch, INTERRUPTED)
    write(tmp_path / "good")
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(check_releases, [handed(tmp_path / "good")])
        while not (tmp_path / "good" / "seen").is_symlink():
            time.sleep(0.01)
        (child,) = guards_of(os.getpid())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        assert rules(checking.result()) == [None]


def guards_of(parent: int) -> list[int]:
    """Processes that check releases for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command = (folder / "cmdline").read_bytes()
            its_parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if b"hyfree_ray.border.release_guard" in command and int(its_parent) == parent:
                found.append(int(folder.name))
    return found


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, rows=40_000)
    check_release_file(handed(tmp_path))
    with pytest.raises(ReleaseError) as caught:
        # The file has 2.9 MB: with no more than it is allowed beside it, nothing can be read.
        check_release_file(handed(tmp_path), ChildLimits(memory_bytes=-(8 << 20)))
    assert caught.value.rule == "memory"


def test_a_file_larger_than_the_memory_that_is_free_gets_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Case 46: a sparse file of 8 GiB costs its sender nothing."""
    monkeypatch.setattr(
        release_guard.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 << 30)
    )
    assert ChildLimits().memory_of(8 << 30) < 4 << 30
    assert ChildLimits().memory_of(100 << 20) == (512 + 300) << 20
    monkeypatch.setattr(
        release_guard.psutil, "virtual_memory", lambda: SimpleNamespace(available=0)
    )
    assert ChildLimits().memory_of(8 << 30) == ChildLimits().memory_bytes


def test_the_child_knows_nothing_of_this_process_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    # RLIMIT_FSIZE is set later than this runs.
    spy = f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text(' '.join(os.environ))"
    first_runs(monkeypatch, spy)
    monkeypatch.setenv("HYFREE_TOKEN", "secret")
    write(tmp_path / "good")
    check_release_file(handed(tmp_path / "good"))
    assert "PATH" in seen.read_text().split()
    assert "HYFREE_TOKEN" not in seen.read_text()


def mutations(file: bytes, count: int, seed: int) -> list[bytes]:
    """Flipped bits, overwritten words, cut, doubled and moved stretches of a valid file."""
    rng = np.random.default_rng(seed)
    interesting = (0, 1, 0x7F, 0x80, 0xFF)
    changed = []
    for number in range(count):
        content = bytearray(file)
        at, length = int(rng.integers(len(file))), int(rng.integers(1, 64))
        kind = number % 5
        if kind == 0:
            for place in rng.integers(0, len(file), rng.integers(1, 9)):
                content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[at : at + 4] = bytes([int(rng.choice(interesting))]) * 4
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length]
        else:
            other = int(rng.integers(len(file)))
            content[at : at + length] = content[other : other + length]
        changed.append(bytes(content))
    return changed


@pytest.mark.parametrize(
    ("count", "seed"), [(2000, 0), pytest.param(10_000, 1, marks=pytest.mark.slow)]
)
def test_mutations_are_refused_or_wholly_valid_and_never_end_the_child(
    tmp_path: Path, count: int, seed: int
) -> None:
    """Each with a manifest that describes it truly: the hash would refuse all of them."""
    folders = [
        put(tmp_path / f"{number:05d}", changed)
        for number, changed in enumerate(mutations(arrow(), count, seed))
    ]
    found: list[ReleaseMetadata | ReleaseError] = []
    for start in range(0, count, 500):
        found += check_releases([handed(folder) for folder in folders[start : start + 500]])
    assert len(found) == count
    ended = {"crash", "memory", "timeout"}
    assert not ended & set(rules(found))
    good = [folder for folder, rule in zip(folders, rules(found), strict=True) if rule is None]
    for folder in good:
        assert len(read(folder).images_NCHW) == 5
    assert len(good) < 0.6 * count  # most of the small file is description, not pixels
