"""`study`, `scale` and `--folds` as they are typed; simulations are run with toys for stages."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hyfree_ray.cli import main
from hyfree_ray.commands import study_runs
from hyfree_ray.studies import trials
from hyfree_ray.studies.grids import SIMULATE_OPTIONS
from tests.refusals import refused
from tests.toys import run_trial


def study(folder: Path, text: str) -> Path:
    path = folder / "quota.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations of trials run the real protocol with toy stages."""
    monkeypatch.setattr(trials, "run_trial", run_trial)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_data_that_cannot_be_partitioned_are_refused_before_anything_runs(
    phantom_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(phantom_folder)
    store = ("--store", tmp_path / "s")
    for text, code, fault in (
        ("{data: data, partition: random}", "option.conflict", "--sites"),
        ("{data: data, sites: 4}", "option.conflict", "--sites 4"),
        ("{data: data, partition: 'column:ward'}", "partition.bad-column", "ward"),
        ("{partition: random, sites: 2}", "option.conflict", "--data"),
    ):
        result = call("study", study(tmp_path, f"simulate: {text}\ngrid: {{seed: [0]}}"), *store)
        refused(result, code, fault)
        assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_study_counts_the_sites_of_its_data(
    phantom_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(phantom_folder)
    ran: list[trials.Trial] = []
    monkeypatch.setattr(study_runs, "_run", lambda found, *_: ran.extend(found) or 0)
    text = "simulate: {data: data, partition: random, sites: 3}\ngrid: {seed: [0]}"
    assert call("study", study(tmp_path, text), "--store", tmp_path / "s").exit_code == 0
    text = "simulate: {data: data, budget: paper}\ngrid: {seed: [0]}"
    assert call("study", study(tmp_path, text), "--store", tmp_path / "s").exit_code == 0
    assert [trial.sites for trial in ran] == [3, 1]


def test_a_study_whose_file_is_missing_is_told_what_a_study_is(tmp_path: Path) -> None:
    result = call("study", tmp_path / "none.yaml", "--store", tmp_path / "s")
    line = refused(result, "study.not-found", "none.yaml", "hyfree-ray study --help")
    assert "--config" not in line
    assert not (tmp_path / "s").exists()


def test_the_help_of_a_study_names_every_option_that_its_file_may_give() -> None:
    said = call("study", "--help").output
    assert ", ".join(SIMULATE_OPTIONS) in " ".join(said.split())


def test_a_scaling_studys_settings_are_its_trials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[trials.Trial] = []
    monkeypatch.setattr(study_runs, "_run", lambda found, *_: ran.extend(found) or 0)
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("warmup: 0.2\n")
    given = ("--settings", "personalised", "--config", "my.yaml", "--store", "s")
    assert call("scale", "--sites", "2,3", "--repeats", "1", *given).exit_code == 0
    assert [trial.sites for trial in ran] == [2, 3]
    for experiment in (trial.simulation.experiment for trial in ran):
        assert (experiment.settings, experiment.warmup) == (("personalised",), 0.2)
    refused(
        call("scale", "--sites", "2,3", "--settings", "real"),
        "option.unknown-setting",
        "'real-all'",
    )


def test_a_scaling_study_of_no_experiment_is_refused_before_anything_runs(tmp_path: Path) -> None:
    given = ("--sites", "2,3", "--store", tmp_path / "s")
    for more, code, fault in (
        (("--set", "replay_sharee=0.5"), "config.unknown-key", "'replay_share'"),
        (("--config", tmp_path / "none.yaml"), "config.unreadable", "none.yaml"),
        (("--set", "seed=5"), "option.conflict", "--set seed=5"),
    ):
        result = call("scale", *given, *more)
        refused(result, code, fault)
        assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_folds_are_not_given_twice(tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "s")]
    for more, code, fault in (
        (["--folds", "0-9"], "option.out-of-range", "--folds 0-9"),
        (["--folds", "0-1", "--fold", "1"], "option.conflict", "--fold,"),
        (["--folds", "0-1", "--calibrate"], "option.conflict", "--calibrate"),
        (["--folds", "0-1", "--set", "fold=2"], "option.conflict", "--set fold=2"),
        (["--folds", "0-"], "option.malformed", "--folds 0-"),
    ):
        refused(CliRunner().invoke(main, ["simulate", *more, *store]), code, fault)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_scaling_study_runs_and_is_read_again_without_running(toys: None, tmp_path: Path) -> None:
    command = ("scale", "--sites", "2,3", "--repeats", "1", "--budget", "smoke", "--ray", "off")
    done = call(*command, "--store", tmp_path / "s")
    assert done.exit_code == 0, done.output
    assert "3 sites" in done.output
    assert "(2 of 2)" in done.stderr
    assert "finetuned minus local2x" in done.output
    (folder,) = (tmp_path / "s" / "studies").iterdir()
    left = {"scaling.csv", "scaling.png", "scaling.svg", "curve.json"}
    assert left <= {path.name for path in folder.iterdir()}
    with (folder / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["sites"] for row in rows} == {"2", "3"}
    # Fine-tuned at all sites, whoever was pooled; and no generator was trained twice.
    pooled_of_two = [row for row in rows if row["sites"] == "2" and row["regime"] == "finetuned"]
    assert {row["train_site"] for row in pooled_of_two} == {"site-1", "site-2", "site-3"}
    assert len(list((tmp_path / "s").glob("sites/*/stages/train_generator-*"))) == 3
    assert len(list((tmp_path / "s").glob("pool/stages/train_general-*"))) == 2
    before = (folder / "scaling.csv").read_bytes()
    again = call(*command, "--store", tmp_path / "s", "--format", "json")
    assert "2 simulations, 0 to run" in again.stderr
    assert [t["sites"] for t in json.loads(again.stdout)["trials"]] == [2, 3]
    assert (folder / "scaling.csv").read_bytes() == before


@pytest.mark.slow
def test_folds_in_one_go_end_in_their_summary(toys: None, tmp_path: Path) -> None:
    command = ("simulate", "--sites", "2", "--folds", "0-1", "--budget", "smoke", "--ray", "off")
    done = call(*command, "--store", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Phantom: 2 runs, folds 0, 1, seeds 0" in done.output
    assert "mean ± sd over 2 folds" in done.output
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_simulation_that_fails_ends_the_command_with_its_code(toys: None, tmp_path: Path) -> None:
    # The experiment and its data are good; who has resources, only the simulation sees.
    (tmp_path / "mine.yaml").write_text("resources: {site-9: {cpus: 1}}\n")
    wrong = ("--config", tmp_path / "mine.yaml", "--ray", "off", "--store", tmp_path / "s")
    assert call("simulate", "--folds", "0-1", *wrong).exit_code == 2
    study = tmp_path / "wrong.yaml"
    study.write_text("simulate: {config: mine.yaml, sites: 2}\ngrid: {seed: [0]}\n")
    result = call("study", study, "--ray", "off", "--store", tmp_path / "s")
    assert result.exit_code == 2
    log = tmp_path / "s" / "studies" / "wrong" / "logs" / "trial-000.log"
    assert "error: trial-000: error: resources.site-9: " in result.output
    assert f"(log: {log})" in result.output


def killed_at_once(*_: object) -> str:
    """A trial that says how far it is and dies."""
    print("3 of 9 stages", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_simulation_that_is_killed_is_told_from_what_it_said_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trials, "run_trial", killed_at_once)
    given = ("--ray", "off", "--store", tmp_path / "s")
    study = tmp_path / "seeds.yaml"
    study.write_text("grid: {seed: [0]}\n")
    result = call("study", study, *given)
    assert result.exit_code == 1
    assert "error: trial-000: killed by signal 9 (log: " in result.output
    assert "3 of 9" not in result.output
    result = call("simulate", "--folds", "0-1", *given)
    assert result.exit_code == 1
    assert "error: fold 0: killed by signal 9\n" in result.output
