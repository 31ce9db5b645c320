"""A federation by files alone, each party in a directory and processes of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.regimes import PROTOCOL
from hyfree_ray.scores import ScoreRow, read_results
from tests.chaos import toys
from tests.chaos.conftest import Program, Start
from tests.chaos.hospitals import CASES, write_hospitals

SMOKE = ("--budget", "smoke", "--generator", "flow", "--device", "cpu", "--set", "precision=fp32")


def federate(root: Path, own: dict[str, Path], settings: tuple[str, ...], run: Program) -> None:
    """Releases to the pool, its model back, scores: everything is copied, nothing is shared."""
    for name, data in own.items():
        home = root / name
        run("site", "contribute", *at(home, data, name), *settings, "--out", home / "release")
        shutil.copytree(home / "release", root / "centre" / "inbox" / name)
    inbox = [root / "centre" / "inbox" / name for name in own]
    centre = ("--store", root / "centre" / "store", "--out", root / "centre" / "general")
    run("pool", "train", *inbox, *centre, *settings)
    for name, data in own.items():
        home = root / name
        shutil.copytree(root / "centre" / "general", home / "general")
        given = (*at(home, data, name), *settings, "--general", home / "general")
        run("site", "personalise", *given, "--out", home / "model")
        run("site", "score", *given, "--out", home / "scores.csv")


def at(home: Path, data: Path, name: str) -> tuple[Any, ...]:
    return ("--data", data, "--site", name, "--store", home / "store")


def numbers(rows: list[ScoreRow]) -> dict[tuple[Any, ...], float]:
    """Scores at home, and of the general model; the run's name differs."""
    return {
        (row.regime, row.test_site, row.patient, row.case, row.label, row.metric): row.value
        for row in rows
        if row.train_site in (row.test_site, "pool") and row.regime in PROTOCOL
    }


def assert_equal_to_the_simulation(root: Path, table: Path) -> None:
    apart: dict[tuple[Any, ...], float] = {}
    for name in CASES:
        apart |= numbers(read_results(root / name / "scores.csv"))
    assert apart == numbers(read_results(table))
    assert {key[0] for key in apart} == set(PROTOCOL)


def test_parties_that_share_nothing_but_files_get_the_numbers_of_the_simulation(
    start: Start, program: Program, tmp_path: Path
) -> None:
    everything, own = write_hospitals(tmp_path)
    federate(tmp_path, own, SMOKE, program)
    table = tmp_path / "table.csv"
    process = start(
        tmp_path / "s", str(everything), str(tmp_path / "s"), str(table), program=toys.federate_on
    )
    process.join()
    assert process.exitcode == 0, (tmp_path / "s.log").read_text()
    assert_equal_to_the_simulation(tmp_path, table)
    for name in CASES:  # nothing of a hospital is anywhere else
        left = sorted(f.name for f in (tmp_path / name / "release").rglob("*") if f.is_file())
        expected = ["manifest.json", "manifest.sig", "parcel.json", "public.key", "release.arrow"]
        assert left == expected


def test_what_is_wrong_with_a_federation_by_files_is_one_line(
    program: Program, tmp_path: Path
) -> None:
    _, own = write_hospitals(tmp_path)
    home = tmp_path / "alpha"
    unknown = program(
        "site", "contribute", *at(home, own["alpha"], "Alpha"), *SMOKE, "--out", home / "r", code=2
    )
    assert "--site Alpha" in unknown
    assert "has alpha" in unknown
    for name in ("alpha", "beta"):
        options = at(tmp_path / name, own[name], name)
        program("site", "contribute", *options, *SMOKE, "--out", tmp_path / "in" / name)
    train = ("pool", "train", tmp_path / "in" / "alpha", tmp_path / "in" / "beta")
    centre = ("--store", tmp_path / "store", "--out", tmp_path / "general")
    (tmp_path / "in" / "beta" / "manifest.sig").write_bytes(b"0" * 64)
    refused = program(*train, *centre, *SMOKE, code=2)
    assert "beta: release refused (signature)" in refused
    assert "fewer than two good releases" in refused
    (tmp_path / "in" / "alpha" / "public.key").write_bytes(b"1" * 32)
    assert "its key is not the one it had" in program(*train, *centre, *SMOKE, code=2)
    (tmp_path / "in" / "beta" / "manifest.sig").unlink()
    assert "not a whole parcel" in program(*train, *centre, *SMOKE, code=2)
    assert not (tmp_path / "general").exists()


@pytest.mark.chaos
def test_with_real_trainings_too(tmp_path: Path) -> None:
    """Every command in a process tree of its own."""

    def run(*arguments: Any) -> str:
        command = [sys.executable, "-m", "hyfree_ray.cli", *(str(a) for a in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shortest = {
        "unet.epochs": 2,
        "unet.finetune_epochs": 2,
        "unet.iterations": 2,
        "generator.min_images_shown": 64,
        "synthesis.max_images": 6,
    }
    settings = [*SMOKE, "--set", "threshold_percentile=0.5"]
    for name, value in shortest.items():
        settings += ["--set", f"budget.{name}={value}"]
    everything, own = write_hospitals(tmp_path)
    alone = ("--settings", "", "--ray", "off", "--store", tmp_path / "s")
    run("simulate", "--data", everything, *settings, *alone)
    (table,) = (tmp_path / "s" / "runs").glob("*/results.csv")
    federate(tmp_path, own, tuple(settings), run)
    assert_equal_to_the_simulation(tmp_path, table)
