"""The command line: help, results, and mistakes that end in one line with exit code 2."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner, Result

from hyfree_ray.cli import main
from hyfree_ray.core.errors import ClusterError, HyfreeError
from tests.refusals import refused


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def data(phantom_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(phantom_folder, tmp_path / "data")


def rewrite_sites(data: Path, old: str, new: str, count: int = -1) -> None:
    table = data / "sites.csv"
    table.write_text(table.read_text().replace(old, new, count))


@pytest.mark.parametrize("command", [(), ("simulate",), ("results",)])
def test_help_gives_examples_and_exit_codes(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "hyfree-ray" in result.output
    assert "Exit codes" in result.output


def test_a_dry_run_creates_nothing_and_names_every_stage(tmp_path: Path) -> None:
    result = call("simulate", "--sites", "3", "--store", tmp_path / "s", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "training the general nnU-Net" in result.output
    assert "site-3" in result.output
    assert not (tmp_path / "s").exists()


def test_a_dry_run_of_the_paper_says_what_it_costs(tmp_path: Path) -> None:
    result = call(
        "simulate", "--budget", "paper", "--device", "cpu", "--store", tmp_path / "s", "--dry-run"
    )
    assert "warning: no GPU was found; this will take about" in result.output
    assert "GiB of disk" in result.output
    assert re.search(r"training the general nnU-Net +device +to run +1666\.7 h\n", result.output)
    assert re.search(r"planning on the pool +cpu +to run\n", result.output)  # nothing tells
    assert re.search(r"training the general nnU-Net +device +to run\n", small_plan(tmp_path))


def small_plan(tmp_path: Path) -> str:
    options = ("--budget", "small", "--device", "cpu", "--store", tmp_path / "s", "--dry-run")
    return call("simulate", *options).output


def test_a_dry_run_in_json_is_json(tmp_path: Path) -> None:
    result = call("simulate", "--store", tmp_path / "s", "--dry-run", "--format", "json")
    steps = json.loads(result.stdout)["steps"]
    assert {step["owner"] for step in steps} == {
        *(f"site-{k}" for k in range(1, 6)),
        "pool",
        "oracle",
    }


def test_the_log_is_as_the_table_unless_it_is_asked_for_otherwise(tmp_path: Path) -> None:
    warned = ("simulate", "--budget", "paper", "--device", "cpu", "--dry-run")
    command = (*warned, "--store", tmp_path / "s", "--format", "json")
    logged = [json.loads(line) for line in call(*command).stderr.splitlines()]
    (text,) = (line["message"] for line in logged if line["level"] == "warning")
    told = call(*command, "--log-format", "text")
    assert f"warning: {text}\n" in told.stderr
    assert json.loads(told.stdout) == json.loads(call(*command).stdout)


@pytest.mark.parametrize(("budget", "told"), [("small", False), ("paper", True)])
def test_json_tells_hours_where_the_text_does_and_only_there(
    tmp_path: Path, budget: str, told: bool
) -> None:
    options = ("--budget", budget, "--device", "cpu", "--store", tmp_path / "s", "--dry-run")
    expected = json.loads(call("simulate", *options, "--format", "json").stdout)["expected"]
    assert expected["disk_gib"] > 0
    for hours in (expected["device_hours"], expected["least_hours"]):
        assert hours > 0 if told else hours is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--site", "5"),
        ("simulate", "--budget", "tiny"),
        ("simulate", "--fold", "7"),
        ("simulate", "--sites"),
        ("simulat",),
        ("study",),
        ("import", "qatar"),
    ],
)
def test_an_option_that_is_wrong_is_one_line_too(arguments: tuple[str, ...]) -> None:
    refused(call(*arguments), "option.usage", "--help")


def test_no_such_folder(tmp_path: Path) -> None:
    result = call("simulate", "--data", tmp_path / "none", "--store", tmp_path / "s")
    refused(result, "data.not-found", "none")


def test_no_dataset_json(data: Path, tmp_path: Path) -> None:
    (data / "dataset.json").unlink()
    result = call("simulate", "--data", data, "--store", tmp_path / "s")
    refused(result, "data.not-found", "dataset.json")


def test_a_number_of_sites_that_differs_from_the_natural_one_is_named(
    data: Path, tmp_path: Path
) -> None:
    result = call("simulate", "--data", data, "--sites", "4", "--store", tmp_path / "s")
    refused(result, "option.conflict", "--sites 4", "(site-2)", "--partition random")


def test_more_sites_than_patients_can_fill(data: Path, tmp_path: Path) -> None:
    options = ("--partition", "random", "--sites", "40", "--store", tmp_path / "s")
    refused(call("simulate", "--data", data, *options), "partition.too-few-patients", "--sites 40")


def test_random_partition_wants_a_number_and_data(data: Path, tmp_path: Path) -> None:
    random = ("--partition", "random", "--store", tmp_path / "s")
    refused(call("simulate", "--data", data, *random), "option.conflict", "--sites N")
    refused(call("simulate", *random), "option.conflict", "--data")


def test_a_patient_in_two_sites(data: Path, tmp_path: Path) -> None:
    rewrite_sites(data, "site-2,", "other,", 1)
    result = call("simulate", "--data", data, "--store", tmp_path / "s")
    refused(result, "data.patient-in-two-sites", "site-2", "other")


def test_a_site_may_not_be_called_as_the_centre_is(data: Path, tmp_path: Path) -> None:
    rewrite_sites(data, "site-2,", "Pool,")
    result = call("simulate", "--data", data, "--store", tmp_path / "s")
    refused(result, "data.bad-site-name", "'Pool'")


def test_bad_data_leave_no_store_behind(data: Path, tmp_path: Path) -> None:
    (data / "dataset.json").write_text("{")
    refused(call("simulate", "--data", data, "--store", tmp_path / "s"), "data.bad-json")
    assert not (tmp_path / "s").exists()


def test_a_site_with_too_few_patients_is_told_what_to_do(data: Path, tmp_path: Path) -> None:
    table = data / "sites.csv"
    header, *rows = table.read_text().splitlines()
    first = rows[0].split(",")[2]
    moved = [row.replace("site-2,", "tiny,") if row.endswith(first) else row for row in rows]
    table.write_text("\n".join([header, *moved]) + "\n")
    result = call("simulate", "--data", data, "--store", tmp_path / "s")
    refused(result, "data.too-few-patients", "tiny")


def test_an_image_without_its_label_and_a_label_without_its_image(
    data: Path, tmp_path: Path
) -> None:
    label = sorted((data / "labelsTr").iterdir())[0]
    kept = label.read_bytes()
    label.unlink()
    refused(call("simulate", "--data", data, "--store", tmp_path / "s"), "data.no-label")
    label.write_bytes(kept)
    sorted((data / "imagesTr").iterdir())[0].unlink()
    refused(call("simulate", "--data", data, "--store", tmp_path / "s"), "data.no-image")


def test_a_label_value_that_dataset_json_does_not_know(data: Path, tmp_path: Path) -> None:
    described = json.loads((data / "dataset.json").read_text())
    described["labels"] = {"background": 0, "organ": 1}
    (data / "dataset.json").write_text(json.dumps(described))
    result = call("simulate", "--data", data, "--store", tmp_path / "s")
    refused(result, "data.unknown-labels", " 2 ", "(0, 1)")


def test_an_unknown_key_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    result = call("simulate", "--set", "budget.unet.epoch=3", "--store", tmp_path / "s")
    refused(result, "config.unknown-key", "'budget.unet.epochs'")


@pytest.mark.parametrize(
    ("setting", "code", "name"),
    [
        ("embedder=openclip", "embedder.no-weights", "embedder_weights"),
        ("embedder_weights=/nowhere", "embedder.no-weights", "/nowhere"),
        ("budget.synthesis.per_real=.inf", "config.bad-yaml", "budget.synthesis.per_real=.inf"),
    ],
)
def test_a_setting_that_nothing_could_be_run_with_is_refused_in_the_plan(
    data: Path, tmp_path: Path, setting: str, code: str, name: str
) -> None:
    options = ("--store", tmp_path / "s", "--set", setting)
    refused(call("simulate", "--sites", "2", "--dry-run", *options), code, name)
    out = ("--site", "site-2", "--out", tmp_path / "out")
    refused(call("site", "contribute", "--data", data, *out, *options), code, name)


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "s"
    store.mkdir()
    (store / "store.json").write_text('{"store_version": 7}')
    refused(call("simulate", "--store", store), "store.other-version", str(store), "7")
    assert [file.name for file in store.iterdir()] == ["store.json"]


@pytest.mark.parametrize(
    ("marker", "code"),
    [('{"store_version": 99}', "store.other-version"), ("[1]", "store.not-a-store")],
)
def test_nothing_of_a_store_of_another_version_is_read_written_or_freed(
    data: Path, tmp_path: Path, marker: str, code: str
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(f"simulate: {{data: {data}}}\ngrid: {{seed: [0, 1]}}\n")
    (tmp_path / "store.json").write_text(marker)
    run = tmp_path / "runs" / "Lung-01234567"
    stage = tmp_path / "sites" / "A" / "stages" / "train_segmenter-0123"
    checkpoint = stage / "checkpoints" / "1.pt"
    for file in (run / "summary.json", stage / "record.json", checkpoint):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    for command in (
        *(("store", "ls"), ("store", "gc"), ("store", "gc", "--snapshots", "--quarantine")),
        *(("results",), ("report",), ("track", run.name), ("simulate", "--dry-run")),
        *(("check", data), ("study", study), ("scale", "--data", data, "--sites", "2")),
    ):
        refused(call(*command, "--store", tmp_path), code)
    assert checkpoint.exists()
    assert not (tmp_path / "digests.json").exists()


def test_a_store_below_a_file_is_refused_in_the_plan_and_found_by_the_doctor(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    below = ("--store", tmp_path / "file" / "sub" / "store")
    result = call("simulate", "--sites", "2", "--dry-run", *below)
    line = refused(result, "store.not-writable", "Not a directory")
    found = call("doctor", *below)
    assert found.exit_code == 1, found.output
    assert re.search(rf"WRONG store +{re.escape(line)}", found.output)


def test_a_ray_address_that_does_not_answer(tmp_path: Path) -> None:
    options = ("--ray", "127.0.0.1:9", "--store", tmp_path / "s")
    refused(call("simulate", *options), "cluster.unreachable", "127.0.0.1:9")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("ends_by", "code", "left"),
    [
        (ClusterError("cluster.head-lost", "the head is gone"), 1, []),
        (HyfreeError("run.not-found", "something else is wrong"), 2, ["left"]),
        (KeyboardInterrupt(), 130, ["left"]),
    ],
)
def test_a_cluster_is_left_by_its_leave_unless_it_is_the_cluster_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, ends_by: BaseException, code: int, left: list[str]
) -> None:
    """Ray tries for seconds to take leave of a head that does not answer."""
    from hyfree_ray.commands import simulate as command
    from hyfree_ray.core import interrupts
    from hyfree_ray.runners import ray_cluster
    from hyfree_ray.runners.run import joined

    def run(*_: object) -> None:
        raise ends_by

    def simulate(**_: object) -> None:
        with joined("head:6379"):
            command._execute_or_exit(None)

    def left_with(line: str, code: int) -> NoReturn:
        click.echo(line, err=True)
        sys.exit(code)

    found: list[str] = []
    monkeypatch.setattr(ray_cluster, "connect", lambda _, **__: None)
    monkeypatch.setattr(ray_cluster, "disconnect", lambda: found.append("left"))
    monkeypatch.setattr(command, "_simulate", simulate)
    monkeypatch.setattr(command, "execute", run)
    monkeypatch.setattr(interrupts, "_signals", [])
    for module in (command, interrupts):
        monkeypatch.setattr(module, "exit_now", left_with)
    done = call("simulate")
    assert (done.exit_code, found) == (code, left), done.output
    assert str(ends_by) in done.output


def test_several_general_workers_want_ray(tmp_path: Path) -> None:
    options = ("--ray", "off", "--set", "general_workers=2", "--store", tmp_path / "s")
    refused(call("simulate", *options), "option.conflict", "general_workers=2")


def test_results_of_nothing_and_of_an_unknown_run(tmp_path: Path) -> None:
    refused(call("results", "--store", tmp_path), "run.not-found", str(tmp_path))
    (tmp_path / "runs" / "Lung-01234567").mkdir(parents=True)
    (tmp_path / "runs" / "Lung-01234567" / "summary.json").write_text("{}")
    result = call("results", "Lung-0", "--store", tmp_path)
    refused(result, "run.not-found", "'Lung-0'", "Lung-01234567")


@pytest.mark.parametrize("text", ["", '{"experiment": {', "[]", "[" * 100_000])
def test_a_summary_that_was_cut_off_is_one_line(tmp_path: Path, text: str) -> None:
    run = tmp_path / "runs" / "Lung-01234567"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(text)
    (run / "tracked").touch()
    for command in ("results", "report", "track"):
        refused(call(command, run.name, "--store", tmp_path), "run.damaged", "summary.json")
    assert (run / "tracked").exists()


def test_contributors_are_sites_and_all_of_them_are_the_same_run(tmp_path: Path) -> None:
    def plan(*more: str) -> Result:
        store = tmp_path / "s"
        return call("simulate", "--sites", "3", "--store", store, "--dry-run", *more)

    first = plan().output.splitlines()[0]
    assert plan("--contributors", "site-1, site-3,site-2").output.splitlines()[0] == first
    assert plan("--contributors", "site-1,site-3").output.splitlines()[0] != first
    result = plan("--contributors", "site-1,site-9")
    refused(result, "option.unknown-site", "site-9", "site-1, site-2, site-3")
    refused(plan("--contributors", "site-1"), "option.out-of-range", "--contributors")


def test_a_site_alone_is_told_that_nothing_can_be_shared(data: Path, tmp_path: Path) -> None:
    """It is no mistake: its local models may be what is wanted."""
    dry = ("simulate", "--store", tmp_path / "s", "--dry-run")
    for given, told in (
        (("--sites", "1"), "site-1 is the only site: nothing can be shared"),
        (
            ("--sites", "2", "--withdraw", "site-1"),
            "site-2 is the only site, because site-1 withdraws",
        ),
        (("--data", data), "site-2 is the only site: nothing can be shared"),
        (("--data", data, "--partition", "random", "--sites", "1"), "site-1 is the only site"),
    ):
        result = call(*dry, *given)
        assert result.exit_code == 0, result.output
        assert result.output.count(f"warning: {told}") == 1, result.output
    assert "only site" not in call(*dry, "--sites", "2").output
    result = call("check", data, "--store", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert result.output.count("note: site-2 is the only site: nothing can be shared") == 1


def test_all_sites_cannot_withdraw(tmp_path: Path) -> None:
    store = tmp_path / "s"
    every = [part for k in (1, 2) for part in ("--withdraw", f"site-{k}")]
    for given in (("--sites", "2", *every), ("--sites", "1", *every[:2])):
        refused(call("simulate", "--store", store, *given), "round.nobody-left", "--withdraw")
    assert not store.exists()


def test_help_lists_every_command_in_a_section_with_its_whole_summary() -> None:
    shown = call("-h").output
    for name, command in main.commands.items():
        assert re.search(rf"^  {name} ", shown, re.MULTILINE), name
        assert command.get_short_help_str(limit=1000).split()[-1] in shown
    assert "..." not in shown.replace("[ARGS]...", "")
    assert "Commands:" not in shown


@pytest.mark.parametrize(
    ("given", "meant"), [("run", "simulate"), ("validate", "check"), ("reprot", "report")]
)
def test_a_command_that_there_is_not_suggests_the_nearest(given: str, meant: str) -> None:
    refusal = refused(call(given), "option.usage")
    assert repr(meant) in refusal


def test_no_finished_run_is_one_line(tmp_path: Path) -> None:
    refused(call("runs", "ls", "--store", tmp_path / "none"), "run.not-found")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    result = call("completion", shell)
    assert result.exit_code == 0
    assert "_HYFREE_RAY_COMPLETE" in result.output
