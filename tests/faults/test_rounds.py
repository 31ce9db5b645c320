"""Sites that fail, come late or withdraw; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.evaluation.scores import read_results
from hyfree_ray.federation.participation import FaultInjection, parse_rules
from tests import toys
from tests.refusals import refused, refuses
from tests.toy_processes import Start

DROPPED = {"site-2": FaultInjection(drops=("train_generator",))}
SLOW = {"site-2": FaultInjection(slowness=1000.0)}


def run(start: Start, store: Path, *, code: int = 0, **rules: Any) -> dict[str, Any]:
    """A run, and what became of its sites; `said` is everything that it printed."""
    log = Path(f"{store}.log")
    log.unlink(missing_ok=True)
    process = start(store, **rules)
    process.join()
    said = log.read_text()
    assert process.exitcode == code, said
    return {"said": said} | (json.loads(said.splitlines()[-1]) if code == 0 else {})


def rounds(store: Path) -> list[list[str]]:
    """Who was in, round by round."""
    files = sorted(f for f in store.glob("pool/rounds/*/*.json") if f.stem.isdigit())
    return [sorted(json.loads(file.read_text())["releases"]) for file in files]


def trained(store: Path, stage: str) -> int:
    return len(list(store.glob(f"**/stages/{stage}-*/record.json")))


def test_03_a_site_that_fails_is_named_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    found = run(start, store, min_sites=2, fault_injections=DROPPED)
    assert found["sites"]["site-2"]["outcome"] == "failed"
    assert "site-2: FAILED: train_generator: dropped out (--drop)" in found["said"]
    assert rounds(store) == [["site-1", "site-3"]]
    tested = {row.test_site for row in read_results(store / "table.csv")}
    assert tested == {"site-1", "site-3"}


def broken(store: str, breaks: str) -> None:
    os.environ[toys.BREAK] = f"{breaks} {store}/imagesTr/DOE_JANE_1961.png is odd"
    toys.federate(store, min_sites=2)


@pytest.mark.parametrize(
    ("breaks", "told", "seen"),
    [
        ("prepare@site-2:", "prepare: ValueError", "error.txt"),
        ("prepare@site-2!", "HyfreeError; the details stay at the site", "DOE_JANE"),
        ("prepare_for_general@site-2:", "prepare_for_general: ValueError", "error.txt"),
    ],
)
def test_03_why_a_site_failed_is_seen_where_it_failed_and_nowhere_else(
    start: Start, tmp_path: Path, breaks: str, told: str, seen: str
) -> None:
    """Case 91: neither a path nor a file's name reaches the pool or the run's summary."""
    store = tmp_path / "store"
    process = start(store, str(store), breaks, program=broken)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == 0, said
    assert seen in said
    sites = json.loads(said.splitlines()[-1])["sites"]
    assert (sites["site-2"]["outcome"], sites["site-2"]["reason"]) == ("failed", told)
    kept = [file for file in (store / "pool").rglob("*") if file.is_file()]
    assert any(file.name == "1.json" for file in kept)
    for file in kept:
        content = file.read_bytes()
        assert not any(word in content for word in (b"DOE_JANE", b"error.txt", b"/sites/")), file


def withholding(store: str) -> None:
    """A run in which site-2 withholds; then what the same command would say of it."""
    os.environ[toys.WITHHOLDS] = "site-2"
    toys.federate(store)
    from hyfree_ray.runners.planning import plan

    simulation = toys.toy_simulation()
    plain = simulation.experiment.model_copy(update={"settings": ()})  # as `federate` asks
    planned = plan(dataclasses.replace(simulation, experiment=plain), Path(store))
    asked = {name: dataclasses.asdict(r) for name, r in planned.outcome.sites.items()}
    toys.say(json.dumps({"missing": [step.name for step in planned.missing], "sites": asked}))


def test_a_site_that_withholds_says_so_signed_and_gets_the_general_model(
    start: Start, tmp_path: Path
) -> None:
    """Case 94: with the reason; and it is the same when the command is given again."""
    store = tmp_path / "store"
    process = start(store, str(store), program=withholding)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == 0, said
    first, again = (json.loads(line) for line in said.splitlines()[-2:])
    told = first["sites"]["site-2"]
    assert (told["outcome"], told["reason"], told["rejection_rate"]) == (
        "withheld",
        "its gate is closed",
        0.25,
    )
    assert rounds(store) == [["site-1", "site-3"]]
    rows = read_results(store / "table.csv")
    own = {row.regime for row in rows if row.train_site == "site-2"}
    assert {"local", "local2x", "finetuned"} <= own
    (notice,) = store.glob("pool/received/site-2/release-*/withheld.json")
    assert json.loads(notice.read_text())["reason"] == "its gate is closed"
    assert again["missing"] == []
    assert again["sites"] == first["sites"]


@pytest.mark.slow
def test_03_without_min_sites_a_site_that_fails_ends_the_run(start: Start, tmp_path: Path) -> None:
    found = run(start, tmp_path / "store", code=1, fault_injections=DROPPED)
    assert "the stage train_generator failed: dropped out" in found["said"]
    assert rounds(tmp_path / "store") == []


@pytest.mark.slow
def test_03_a_site_that_fails_after_the_pool_has_closed_keeps_what_it_has(
    start: Start, tmp_path: Path
) -> None:
    drops = {"site-2": FaultInjection(drops=("finetuned",))}
    found = run(start, tmp_path / "store", min_sites=2, fault_injections=drops)
    assert found["sites"]["site-2"]["outcome"] == "failed"
    assert found["sites"]["site-2"]["images"] == 5
    rows = read_results(tmp_path / "store" / "table.csv")
    own = {row.regime for row in rows if row.train_site == "site-2"}
    assert own == {"local", "local2x"}
    again = run(start, tmp_path / "store")
    assert again["sites"]["site-2"]["outcome"] == "released"


def test_28_30_a_late_site_is_not_waited_for_and_taken_in_by_the_next_round(
    start: Start, undisturbed: bytes, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    found = run(start, store, min_sites=2, deadline_s=3.0, fault_injections=SLOW)
    assert found["sites"]["site-2"]["outcome"] == "late"
    assert rounds(store) == [["site-1", "site-3"]]
    plain = run(start, store)  # it does not wait for the late one, nor mix it in
    assert plain["sites"] == found["sites"]
    assert rounds(store) == [["site-1", "site-3"]]
    before = {name: trained(store, name) for name in ("train_generator", "train_general")}
    later = run(start, store, next_round=True)
    assert later["round"] == 2
    assert rounds(store) == [["site-1", "site-3"], ["site-1", "site-2", "site-3"]]
    assert trained(store, "train_generator") <= before["train_generator"] + 1
    assert trained(store, "train_general") == before["train_general"] + 1
    assert (store / "table.csv").read_text() == undisturbed.decode().replace(",1,0,0,", ",2,0,0,")
    nobody = run(start, store, next_round=True, code=1)
    assert "no new release since round 2" in nobody["said"]


@pytest.mark.slow
def test_17_28_the_deadline_counts_over_restarts(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (folder,) = {file.parent for file in _closed(start, tmp_path / "other")}
    clock = store / folder.relative_to(tmp_path / "other") / "1.clock.json"
    clock.parent.mkdir(parents=True)
    clock.write_text('{"seconds": 3599.5}')
    none = dict.fromkeys(("site-1", "site-2", "site-3"), FaultInjection(slowness=1000.0))
    found = run(start, store, code=1, min_sites=2, deadline_s=3600.0, fault_injections=none)
    assert "0 releases have arrived, --min-sites needs 2" in found["said"]


def _closed(start: Start, store: Path) -> list[Path]:
    run(start, store)
    return list(store.glob("pool/rounds/*/1.json"))


def test_29_below_min_sites_no_model_is_made(start: Start, tmp_path: Path) -> None:
    drops = {**DROPPED, "site-1": FaultInjection(drops=("release",))}
    found = run(start, tmp_path / "store", code=1, min_sites=2, fault_injections=drops)
    assert "HyfreeError: 1 releases have arrived, --min-sites needs 2" in found["said"]
    assert rounds(tmp_path / "store") == []
    assert trained(tmp_path / "store", "train_general") == 0


def test_36_a_site_withdraws_and_the_models_that_knew_it_are_named(
    start: Start, tmp_path: Path
) -> None:
    store, compared = tmp_path / "store", {"settings": ("real-all", "mix-50")}
    run(start, store, **compared)
    (general,) = (f.name[-20:] for f in store.glob("pool/stages/train_general-*"))
    with_it = {read_inputs(file) for file in store.glob("oracle/stages/prepare_*/record.json")}
    found = run(start, store, **compared, withdraw=("site-3",))
    assert found["sites"]["site-3"]["outcome"] == "withdrawn"
    assert found["round"] == 2
    assert rounds(store)[1] == ["site-1", "site-2"]
    assert f"site-3 contributed to the general model {general[:8]}" in found["said"]
    for site in ("site-1", "site-2"):
        assert f"site-3 contributed to {site}'s finetuned model" in found["said"]
    # What compares by the real data of all is made anew without it too, and is named.
    for regime in ("real-all", "mix-50"):
        assert f"site-3 contributed to the comparison {regime} model" in found["said"]
    files = store.glob("oracle/stages/prepare_*/record.json")
    anew = {read_inputs(file) for file in files} - with_it
    assert anew == {("data_0", "data_1"), ("data_0", "data_1", "release_0", "release_1")}
    again = run(start, store)  # for good
    assert again["sites"]["site-3"]["outcome"] == "withdrawn"
    assert rounds(store)[1:] == [["site-1", "site-2"]]
    other = run(start, store, seed=1)  # of every experiment
    assert other["sites"]["site-3"]["outcome"] == "withdrawn"
    assert "site-3: withdrawn: the site has withdrawn" in other["said"]
    assert sorted(rounds(store)) == 2 * [["site-1", "site-2"]] + [["site-1", "site-2", "site-3"]]
    assert len(list(store.glob("sites/site-3/stages/train_generator-*"))) == 1


def read_inputs(file: Path) -> tuple[str, ...]:
    """The names of a stage's inputs."""
    return tuple(sorted(json.loads(file.read_text())["inputs"]))


OPTIONS: dict[str, Any] = {
    "sites": ("site-1", "site-2"),
    "min_sites": None,
    "deadline": None,
    "next_round": False,
    "withdraw": (),
    "drop": (),
    "slow": (),
}


def test_rules_are_read_from_options() -> None:
    rules = parse_rules(
        **OPTIONS
        | {
            "min_sites": 1,
            "deadline": "1.5h",
            "drop": ("site-1@release", "site-1@local2x"),
            "slow": ("site-1=2.5x",),
        }
    )
    assert rules.deadline_s == 5400
    assert rules.fault_injections["site-1"] == FaultInjection(
        drops=("release", "local2x"), slowness=2.5
    )


@pytest.mark.parametrize(
    ("option", "value", "code", "name"),
    [
        ("drop", ("site-1",), "option.malformed", "SITE@STAGE"),
        ("drop", ("site-9@release",), "option.unknown-site", "site-1, site-2"),
        ("drop", ("site-1@release",), "option.conflict", "--min-sites"),
        ("slow", ("site-1=fast",), "option.malformed", "SITE=FACTORx"),
        ("slow", ("site-1=0.5x",), "option.out-of-range", "site-1=0.5x"),
        ("slow", ("site-1=0x",), "option.out-of-range", "site-1=0x"),
        ("withdraw", ("site-9",), "option.unknown-site", "--withdraw site-9"),
        ("deadline", "tomorrow", "option.malformed", "--deadline tomorrow"),
        ("deadline", "0h", "option.out-of-range", "--deadline 0h"),
        ("deadline", "5m", "option.conflict", "--min-sites"),
        ("min_sites", 3, "option.out-of-range", "--min-sites 3"),
    ],
)
def test_rules_that_make_no_sense_are_one_line(
    option: str, value: Any, code: str, name: str
) -> None:
    needed = {"min_sites": 1} if option == "deadline" and "--min-sites" not in name else {}
    with refuses(code, name):
        parse_rules(**OPTIONS | needed | {option: value})


def test_the_command_line_knows_them(tmp_path: Path) -> None:
    arguments = ["simulate", "--store", str(tmp_path / "s"), "--dry-run", "--withdraw", "site-9"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--withdraw site-9" in result.output


@pytest.mark.parametrize(
    ("options", "config", "code", "named"),
    [
        (("--drop", "site-2@train_generater"), "", "option.unknown-stage", "'train_generator'"),
        (("--drop", "site-2@lokal2x"), "", "option.unknown-stage", "'local2x'"),
        (("--drop", "site-2@WRONG"), "", "option.unknown-stage", "audit, "),
        ((), "resources: {site-22: {cpus: 1}}", "option.unknown-site", "resources.site-22"),
        ((), "resources: {default: {cpus: 5000}}", "cluster.no-room", "5000 CPU"),
        ((), "resources: {pool: {memory_gib: 1e6}}", "cluster.no-room", "1e+06 GiB of memory"),
    ],
)
def test_what_nothing_is_called_and_what_can_never_start_is_said_by_a_dry_run_too(
    tmp_path: Path, options: tuple[str, ...], config: str, code: str, named: str
) -> None:
    (tmp_path / "c.yaml").write_text(config or "{}")
    arguments = ["simulate", "--sites", "3", "--store", str(tmp_path / "s"), "--dry-run"]
    more = ["--min-sites", "2", "--config", str(tmp_path / "c.yaml"), *options]
    result = CliRunner().invoke(main, [*arguments, *more])
    refused(result, code, named)
    assert not (tmp_path / "s").exists()


def test_a_dry_run_says_what_stages_take_and_what_the_disk_has_to_hold(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("resources: {site-2: {cpus: 1.5, memory_gib: 2}}")
    arguments = ["simulate", "--sites", "2", "--store", str(tmp_path / "s"), "--dry-run"]
    given = [*arguments, "--config", str(tmp_path / "c.yaml"), "--device", "cpu"]
    text = CliRunner().invoke(main, given).output
    assert "site-1: each stage takes 1 CPU\n" in text
    assert "site-2: each stage takes 1.5 CPU, 2 GiB of memory\n" in text
    assert re.search(r"about \d+ MiB of disk", text)
    told = json.loads(CliRunner().invoke(main, [*given, "--format", "json"]).stdout)
    assert 0 < told["expected"]["disk_gib"] < 2
    (takes,) = {json.dumps(s["takes"]) for s in told["steps"] if s["owner"] == "site-2"}
    assert json.loads(takes) == {"CPU": 1.5, "memory": 2 * 2**30}
