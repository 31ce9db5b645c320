"""The driver and the store under faults; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.journal import METRICS, read_metrics
from hyfree_ray.core.records import RECORD
from tests import toys
from tests.processes import forking
from tests.toy_processes import Start


def until(store: Path, pattern: str) -> Path:
    """Wait for a file."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = sorted(store.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"no {pattern} in {store}: {Path(f'{store}.log').read_text()}")


def finish(start: Start, store: Path) -> bytes:
    """Give the same command until it ends well, and read the table."""
    process = start(store)
    process.join()
    assert process.exitcode == 0, Path(f"{store}.log").read_text()
    return (store / "table.csv").read_bytes()


SLOWLY = 0.03
"""Seconds a step: long enough to be met by a kill."""


@pytest.mark.parametrize(
    "stages", [pytest.param(4, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)]
)
def test_05_a_driver_killed_at_stage_boundaries_redoes_only_what_is_unfinished(
    start: Start, undisturbed: bytes, tmp_path: Path, stages: int
) -> None:
    store, kills = tmp_path / "store", 0
    while True:
        process = start(store, die_after=stages)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert (store / "table.csv").read_bytes() == undisturbed
    attempts = [len(f.read_text().splitlines()) for f in store.glob("**/attempts.jsonl")]
    # A stage that was asked for at the same time may end before the signal comes.
    assert kills > len(attempts) // (2 * stages) > 5
    assert sum(attempts) <= len(attempts) + kills  # the one that had just begun, each time
    assert len(list(store.glob("pool/received/*/release-*"))) == 3  # O2: one a site


@pytest.mark.parametrize(
    "stage",
    [
        "train_general",
        pytest.param("train_generator", marks=pytest.mark.slow),
        pytest.param("train_segmenter", marks=pytest.mark.slow),
    ],
)
def test_01_02_a_training_goes_on_from_its_checkpoint_and_before_the_first_from_the_start(
    start: Start, undisturbed: bytes, tmp_path: Path, stage: str
) -> None:
    store = tmp_path / "store"
    for pattern in ("attempts.jsonl", "checkpoints/*2.sha256"):
        process = start(store, step_s=SLOWLY)
        until(store, f"**/{stage}-*/{pattern}")
        process.kill()
        process.join()
    assert finish(start, store) == undisturbed
    folder = next(f.parent for f in store.glob(f"**/{stage}-*/attempts.jsonl"))
    assert (folder / RECORD).exists()
    lines = (folder / METRICS).read_text().splitlines()
    assert toys.STEPS <= len(lines) <= toys.STEPS + 2  # at most the step that was under way, twice
    assert [entry["step"] for entry in read_metrics(folder)] == list(range(1, toys.STEPS + 1))


@pytest.mark.slow
def test_06_a_driver_killed_at_random_times_converges(
    start: Start, undisturbed: bytes, tmp_path: Path, dice: random.Random
) -> None:
    store = tmp_path / "store"
    for _ in range(6):
        process = start(store, step_s=0.01)
        process.join(dice.uniform(0.2, 0.7))
        process.kill()
        process.join()
    assert finish(start, store) == undisturbed


@pytest.mark.parametrize("damage", ["flipped", pytest.param("truncated", marks=pytest.mark.slow)])
def test_22_23_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_that_is_said(
    start: Start, undisturbed: bytes, tmp_path: Path, damage: str
) -> None:
    store = tmp_path / "store"
    process = start(store, step_s=SLOWLY)
    newest = until(store, "**/train_generator-*/checkpoints/*3.sha256").with_suffix(".pt")
    process.kill()
    process.join()
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flipped" else content[:-40])
    assert finish(start, store) == undisturbed
    assert f"{newest} is damaged or incomplete" in Path(f"{store}.log").read_text()


def test_21_a_folder_that_a_crash_left_half_written_is_written_again(
    start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert finish(start, store) == undisturbed
    for stage in ("train_general", "synthesise"):
        folder = next(store.glob(f"**/stages/{stage}-*"))
        (folder / RECORD).unlink()
        (folder / "model" / "toy.json").write_text("half")
        (folder / "model" / ".toy.json.7.tmp").write_text("half")
        (folder / f".{RECORD}.7.tmp").write_text("half")
    (store / "table.csv").unlink()
    assert finish(start, store) == undisturbed
    assert not list(store.glob(f"**/.{RECORD}.7.tmp"))
    sent = list(store.glob("sites/*/received/pool/train_general-*/model/*"))
    assert {file.name for file in sent} == {"toy.json"}


def test_19_20_a_full_disk_leaves_no_final_file_and_the_run_goes_on_when_there_is_room(
    start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = start(store, largest_file=20_000)  # a checkpoint has more than 40,000 bytes
    process.join()
    assert process.exitcode == 1
    assert "File too large" in Path(f"{store}.log").read_text()
    assert not list(store.glob("**/checkpoints/*"))
    assert not list(store.glob("**/train_generator-*/record.json"))
    assert finish(start, store) == undisturbed


@pytest.mark.parametrize(("what", "file"), [("release", "release.arrow"), ("record", RECORD)])
def test_19_a_disk_that_is_full_while_a_release_or_a_record_is_written_leaves_none(
    start: Start, tmp_path: Path, what: str, file: str
) -> None:
    log, folder = tmp_path / "run", tmp_path / "stage"
    process = start(log, str(folder), what, program=toys.keep_much, largest_file=20_000)
    process.join()
    assert process.exitcode == 1
    said = Path(f"{log}.log").read_text().splitlines()[-1]
    assert "site-1: the stage write_much failed: OSError: File too large" in said
    assert not (folder / file).exists()
    assert not (folder / RECORD).exists()
    process = start(log, str(folder), what, program=toys.keep_much)
    process.join()
    assert process.exitcode == 0
    assert (folder / file).stat().st_size > 50_000
    assert (folder / RECORD).exists()


def test_18_two_drivers_on_one_store_share_the_work_and_agree(
    start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    both = [start(store), start(store)]
    for process in both:
        process.join()
        assert process.exitcode == 0, Path(f"{store}.log").read_text()
    assert (store / "table.csv").read_bytes() == undisturbed
    attempts = store.glob("**/attempts.jsonl")
    assert all(len(file.read_text().splitlines()) == 1 for file in attempts)


def train_once(*arguments: Sequence[Any]) -> None:
    """Run the toy training in processes of their own, all at the same time."""
    context = forking()
    processes = [context.Process(target=toys.train_once, args=tuple(one)) for one in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_12_a_stage_that_was_launched_twice_is_committed_once(tmp_path: Path) -> None:
    train_once([str(tmp_path)], [str(tmp_path)])
    assert len((tmp_path / "attempts.jsonl").read_text().splitlines()) == 1
    assert [entry["step"] for entry in read_metrics(tmp_path)] == list(range(1, toys.STEPS + 1))


def test_24_a_line_that_a_crash_cut_short_is_dropped_and_the_next_one_kept(tmp_path: Path) -> None:
    cut = {"attempts.jsonl": '{"started": 5.0, "pi', METRICS: '{"step": 1, "total": 4, "ti'}
    for name, text in cut.items():
        (tmp_path / name).write_text(text)
    train_once([str(tmp_path)])
    assert [entry["step"] for entry in read_metrics(tmp_path)] == list(range(1, toys.STEPS + 1))
    attempts = (tmp_path / "attempts.jsonl").read_text().splitlines()
    assert json.loads(attempts[-1])["pid"] > 0


def test_17_a_clock_that_jumps_by_hours_changes_no_result_and_counts_no_time(
    tmp_path: Path,
) -> None:
    here, jumped = tmp_path / "here", tmp_path / "jumped"
    train_once([str(here)], [str(jumped), (0.0, -3600.0, 3600.0, 7200.0, 0.0)])
    records = [json.loads((folder / RECORD).read_text()) for folder in (here, jumped)]
    assert records[0]["result"] == records[1]["result"]
    assert 0 <= records[1]["seconds"] < 30
