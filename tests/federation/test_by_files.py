"""A federation by files alone, each party in a directory and processes of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.evaluation.regimes import protocol
from hyfree_ray.evaluation.scores import ScoreRow, read_results
from tests import toys
from tests.hospitals import CASES, write_hospitals
from tests.segmenters.test_folders import foreground_of_equal_voxels
from tests.toy_processes import Program, Start, program_with_toys

REGIMES = {*protocol(), "personalised", "chosen"}
"""What a hospital scores when it has the pool's model and releases."""

Told = dict[str, str]

SMOKE = ("--budget", "smoke", "--generator", "flow", "--device", "cpu", "--set", "precision=fp32")


def federate(root: Path, own: dict[str, Path], settings: tuple[str, ...], run: Program) -> Told:
    """Releases to the pool, its model back, scores: everything is copied, nothing is shared.

    Returns what each hospital was told when it fine-tuned.
    """
    told = {}
    for name, data in own.items():
        home = root / name
        run("site", "contribute", *at(home, data, name), *settings, "--out", home / "release")
        shutil.copytree(home / "release", root / "centre" / "inbox" / name)
    inbox = [root / "centre" / "inbox" / name for name in own]
    centre = ("--store", root / "centre" / "store", "--out", root / "centre" / "general")
    run("pool", "train", *inbox, *centre, *settings)
    (root / "pool.key").write_bytes((root / "centre" / "general" / "public.key").read_bytes())
    for name, data in own.items():
        home = root / name
        shutil.copytree(root / "centre" / "general", home / "general")
        given = (*at(home, data, name), *settings, "--general", home / "general")
        given += ("--pool-key", root / "pool.key")
        told[name] = run("site", "personalise", *given, "--out", home / "model")
        run("site", "score", *given, "--out", home / "scores.csv")
    return told


def at(home: Path, data: Path, name: str) -> tuple[Any, ...]:
    return ("--data", data, "--site", name, "--store", home / "store")


def numbers(rows: list[ScoreRow]) -> dict[tuple[Any, ...], float]:
    """Scores at home, and of the general model; the run's name differs."""
    return {
        (row.regime, row.test_site, row.patient, row.case, row.label, row.metric): row.value
        for row in rows
        if row.train_site in (row.test_site, "pool") and row.regime in REGIMES
    }


def assert_equal_to_the_simulation(root: Path, table: Path) -> None:
    apart: dict[tuple[Any, ...], float] = {}
    for name in CASES:
        apart |= numbers(read_results(root / name / "scores.csv"))
    assert apart == numbers(read_results(table))
    assert {key[0] for key in apart} == REGIMES


@pytest.fixture(scope="module")
def federation(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """Three hospitals and a centre after their federation by files, and what they were told."""
    root = tmp_path_factory.mktemp("federation")
    _, own = write_hospitals(root)
    return root, federate(root, own, SMOKE, program_with_toys(start, root))


@pytest.mark.slow
def test_parties_that_share_nothing_but_files_get_the_numbers_of_the_simulation(
    federation: tuple[Path, Told], start: Start, tmp_path: Path
) -> None:
    root, told = federation
    table = tmp_path / "table.csv"
    process = start(
        tmp_path / "s", str(root / "all"), str(tmp_path / "s"), str(table), program=toys.federate_on
    )
    process.join()
    log = (tmp_path / "s.log").read_text()
    assert process.exitcode == 0, log
    assert_equal_to_the_simulation(root, table)
    chosen = {name: re.search(r"; it chooses (\S+)\n", text) for name, text in told.items()}
    for name, found in chosen.items():
        assert found is not None, told[name]
        assert re.search(r"personalised 0\.\d{3} \([+-]0\.\d{3}; [^)]*\); it", told[name])
        assert f'"{name}": "{found[1]}"' in log
        model = json.loads((root / name / "model" / "parcel.json").read_text())
        assert model["result"]["regime"] == found[1]
    for name in CASES:  # nothing of a hospital is anywhere else
        left = sorted(f.name for f in (root / name / "release").rglob("*") if f.is_file())
        expected = ["manifest.json", "manifest.sig", "parcel.json", "public.key", "release.arrow"]
        assert left == expected


def test_a_hospital_replays_the_releases_of_the_others_alone(
    federation: tuple[Path, Told],
) -> None:
    root, told = federation
    for name in CASES:
        others = sorted(set(CASES) - {name})
        assert f"releases checked, for replay: {', '.join(others)}\n" in told[name]
        manifests = (root / name / "store").glob("sites/*/received/pool/release-*/manifest.json")
        assert sorted(json.loads(file.read_text())["site"] for file in manifests) == others


def test_a_release_that_was_tampered_with_is_refused_and_a_whole_copy_taken_afterwards(
    federation: tuple[Path, Told], program: Program, tmp_path: Path
) -> None:
    """Cases 50-52, on the way down: one line, nothing written, nothing of it kept."""
    root, _ = federation
    shutil.copytree(root / "centre" / "general", tmp_path / "general")
    file = tmp_path / "general" / "releases" / "beta" / "release.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:-200] + bytes(1) + whole[-199:])
    home = (*at(tmp_path, root / "alpha" / "data", "alpha"), *SMOKE)
    given = (*home, "--general", tmp_path / "general")
    for command in ("personalise", "score"):
        refused = program("site", command, *given, "--out", tmp_path / "out", code=2)
        assert refused.splitlines()[-1].startswith("error: beta: release refused (sha256): ")
        assert refused.count("error: ") == 1
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "store").glob("sites/*/received/pool/*"))
    file.write_bytes(whole)
    kept = ("--keep", "personalised", "--out", tmp_path / "out")
    assert "personalised written to" in program("site", "personalise", *given, *kept)


def test_a_site_with_the_pools_key_refuses_what_was_exchanged_and_says_where_it_has_none(
    federation: tuple[Path, Told], program: Program, tmp_path: Path
) -> None:
    """Case 114: a stranger's model, under the pool's name and in its form."""
    root, told = federation
    assert not any("who sent it is not checked" in text for text in told.values())
    inbox = [root / "centre" / "inbox" / name for name in ("beta", "gamma")]
    theirs, home = tmp_path / "theirs", (*at(tmp_path, root / "alpha" / "data", "alpha"), *SMOKE)
    program("pool", "train", *inbox, "--store", tmp_path / "s", "--out", theirs, *SMOKE)
    given = (*home, "--general", theirs)
    for command in ("personalise", "score"):
        key = ("--pool-key", root / "pool.key", "--out", tmp_path / "out")
        refused = program("site", command, *given, *key, code=2)
        assert refused.splitlines()[-1].startswith("error: ")
        assert "--pool-key" in refused.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    unchecked = program("site", "personalise", *given, "--out", tmp_path / "out")
    assert "who sent it is not checked" in unchecked


def test_without_releases_there_is_the_papers_model_alone(
    federation: tuple[Path, Told], program: Program, tmp_path: Path
) -> None:
    root, _ = federation
    shutil.copytree(root / "centre" / "general", tmp_path / "general")
    (tmp_path / "general" / "releases").rename(tmp_path / "elsewhere")
    home = (*at(root / "alpha", root / "alpha" / "data", "alpha"), *SMOKE)
    given = (*home, "--general", tmp_path / "general")
    out = ("--out", tmp_path / "model")
    nothing = program("site", "personalise", *given, *out, "--keep", "personalised", code=2)
    assert "--keep personalised: " in nothing
    assert "--releases" in nothing
    by_itself = program("site", "personalise", *given, *out)
    assert "no releases to replay: no choice\n" in by_itself
    assert "finetuned written to" in by_itself
    kept = program("site", "personalise", *given, *out, "--keep", "local2x")
    assert "local2x written to" in kept
    assert "finetuned" not in kept
    elsewhere = ("--releases", tmp_path / "elsewhere")
    assert "it chooses" in program("site", "personalise", *given, *elsewhere, *out)
    release = ("--general", root / "alpha" / "release")
    assert f"{root / 'alpha' / 'release'}: " in program(
        "site", "personalise", *home, *release, *out, code=2
    )
    table = ("--out", tmp_path / "scores.csv")
    assert "--releases: " in program("site", "score", *home, *elsewhere, *table, code=2)


def test_the_pool_hands_out_what_may_be_replayed_and_says_what_may_not(
    federation: tuple[Path, Told], program: Program, tmp_path: Path
) -> None:
    root, _ = federation
    inbox = [root / "centre" / "inbox" / name for name in CASES]
    out = tmp_path / "general"
    train = ("pool", "train", *inbox, "--store", tmp_path / "s", "--out", out, *SMOKE)
    said = program(*train, "--set", "min_label_agreement=0.6")  # toys agree by .5
    for name in CASES:
        assert (
            f"{name}: its labels agree with the others' (Dice 0.50); left out of replay\n" in said
        )
    assert [path.name for path in (out / "releases").iterdir()] == ["releases.json"]
    given = (*at(tmp_path, root / "alpha" / "data", "alpha"), *SMOKE, "--general", out)
    told = program("site", "personalise", *given, "--out", tmp_path / "model")
    assert "for replay: nobody\n" in told
    shutil.rmtree(out)
    program(*train, "--set", "settings=[]")
    assert not (out / "releases").exists()


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
        (tmp_path / name / "store").mkdir()  # an empty folder is as good as none
        options = at(tmp_path / name, own[name], name)
        program("site", "contribute", *options, *SMOKE, "--out", tmp_path / "in" / name)
    train = ("pool", "train", tmp_path / "in" / "alpha", tmp_path / "in" / "beta")
    centre = ("--store", tmp_path / "store", "--out", tmp_path / "general")
    (tmp_path / "in" / "beta" / "manifest.sig").write_bytes(b"0" * 64)
    refused = program(*train, *centre, *SMOKE, code=3)
    assert "beta: release refused (signature)" in refused
    assert "at least two good releases" in refused
    (tmp_path / "in" / "alpha" / "public.key").write_bytes(b"1" * 32)
    assert "its key has changed" in program(*train, *centre, *SMOKE, code=3)
    (tmp_path / "in" / "beta" / "manifest.sig").unlink()
    assert "incomplete or damaged" in program(*train, *centre, *SMOKE, code=3)
    assert not (tmp_path / "general").exists()


@pytest.mark.slow
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
        "unet.iterations": 24,
        "generator.min_images_shown": 64,
        "synthesis.max_images": 6,
    }
    settings = [*SMOKE, "--set", "threshold_percentile=0.5"]
    for name, value in shortest.items():
        settings += ["--set", f"budget.{name}={value}"]
    everything, own = write_hospitals(tmp_path)
    alone = ("--settings", "personalised", "--ray", "off", "--store", tmp_path / "s")
    run("simulate", "--data", everything, *settings, *alone)
    (table,) = (tmp_path / "s" / "runs").glob("*/results.csv")
    federate(tmp_path, own, tuple(settings), run)
    assert_equal_to_the_simulation(tmp_path, table)
    home = tmp_path / "alpha"
    given = (*at(home, own["alpha"], "alpha"), *settings, "--general", home / "general")
    kept = ("--keep", "personalised", "--out", home / "kept")
    run("site", "personalise", *given, *kept)
    for model in ("model", "kept"):
        found = foreground_of_equal_voxels(
            home / model, own["beta"] / "imagesTr", home / f"by-{model}"
        )
        assert found > 0  # an empty segmentation would be equal to anything
