"""Studies: what would be run, and what is read from it. The runs are made up."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hyfree_ray import trials
from hyfree_ray.cli import main
from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.commands import study_runs
from hyfree_ray.config import Experiment
from hyfree_ray.errors import HyfreeError
from hyfree_ray.regimes import CHOICE_VERSION
from hyfree_ray.results.finished import Finished, mark_shown, mark_written
from hyfree_ray.scores import COLUMNS
from hyfree_ray.studies import (
    SIMULATE_OPTIONS,
    curve_points,
    draw_subsets,
    grid_trials,
    grouped,
    phases,
    scale_trials,
    write_scaling,
)
from hyfree_ray.trials import Place, Trial, as_arguments, parse_numbers
from tests.results.test_pooled import GAIN, SITES, finished

NAMES = [f"site-{k}" for k in range(1, 9)]


def test_subsets_are_random_different_and_the_same_next_time() -> None:
    drawn = draw_subsets(NAMES, 3, 6)
    assert len(set(drawn)) == 6
    assert all(len(set(subset)) == 3 for subset in drawn)
    assert drawn == draw_subsets(NAMES, 3, 6) == draw_subsets(list(reversed(NAMES)), 3, 6)
    assert drawn[:2] == draw_subsets(NAMES, 3, 2)
    assert {name for subset in drawn for name in subset} > set(NAMES[:3])  # no prefixes
    assert draw_subsets(NAMES, 8, 5) == [tuple(NAMES)]
    with pytest.raises(HyfreeError, match="2 to 8 of the 8 sites"):
        draw_subsets(NAMES, 9, 1)


def test_a_scaling_study_is_all_sizes_draws_folds_and_seeds() -> None:
    found = scale_trials(NAMES, (2, 8), ("--sites", "8"), repeats=2, folds=(0, 1), seeds=2)
    assert len(found) == (2 + 1) * 2 * 2
    assert len({trial.name for trial in found}) == len(found)
    whole = [trial for trial in found if trial.sites == 8]
    assert not any("--contributors" in trial.options for trial in whole)
    assert whole[0].options == ("--sites", "8", "--fold", "0", "--seed", "0")
    part = next(trial for trial in found if trial.sites == 2)
    assert part.options[-2] == "--contributors"
    assert part.options[-1].split(",") == part.values["contributors"]
    first, then = phases(found)
    assert first == whole  # they train every generator that the others need
    assert len(then) == 8


def study(folder: Path, text: str) -> Path:
    path = folder / "quota.yaml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    path = study(
        tmp_path,
        "simulate: {budget: smoke, settings: [real-all, syn]}\n"
        "grid: {sites: [2, 3], budget.synthesis.per_real: [1.0, 4.0], seed: [0, 1]}\n",
    )
    found = grid_trials(path)
    assert len(found) == 8
    assert found[0].options == (
        *("--budget", "smoke", "--settings", "real-all,syn", "--sites", "2"),
        *("--set", "budget.synthesis.per_real=1.0", "--set", "seed=0"),
    )
    assert [trial.sites for trial in found] == [2] * 4 + [3] * 4
    assert found[-1].values == {"sites": 3, "budget.synthesis.per_real": 4.0, "seed": 1}


def test_a_budget_varies_by_name_and_files_are_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("warmup: 0.2\n")
    path = study(
        tmp_path,
        "simulate: {config: my.yaml, data: Dataset001_X}\n"
        "grid: {budget: [smoke, small], generator: [flow], seed: [0]}\n",
    )
    found = grid_trials(path)
    assert [trial.options for trial in found] == [
        (
            *("--config", str(tmp_path / "my.yaml"), "--data", str(tmp_path / "Dataset001_X")),
            *("--budget", budget, "--generator", "flow", "--set", "seed=0"),
        )
        for budget in ("smoke", "small")
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grid: {budget: [tiny]}", "no budget is called 'tiny'"),
        ("grid: {budget: [{unet: 3}]}", "is not a budget's name"),
        ("grid: {budget.synthesis.per_reel: [1]}", "did you mean 'budget.synthesis.per_real'"),
        ("grid: {fold: [7]}", "fold: input should be less than or equal to 4"),
        ("grid: {seed: 3}", "seed: write a list"),
        ("grid: {fold: [1], seed: [0, 2, 0]}", "grid: seed: 0 stands there twice"),
        ("grid: {budget.synthesis.per_real: [4, 4.0]}", "4.0 stands there twice"),
        ("simulate: {data: none}\ngrid: {seed: [0]}", "no such folder"),
        ("grid: {}", "'grid' maps fields to lists"),
        ("grids: {seed: [1]}", "unknown key 'grids'"),
        ("simulate: {store: x}\ngrid: {seed: [1]}", "unknown option 'store'"),
        ("grid: {sites: [two]}", "'two' is not a number"),
        ("simulate: {settings: [syn, 50]}\ngrid: {seed: [1]}", "settings: 50 is not a setting's"),
    ],
)
def test_a_study_that_is_wrong_is_refused_before_anything_runs(
    tmp_path: Path, text: str, fault: str
) -> None:
    result = CliRunner().invoke(
        main, ["study", str(study(tmp_path, text)), "--store", str(tmp_path / "s")]
    )
    assert result.exit_code == 2
    assert fault in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_data_that_cannot_be_partitioned_are_refused_before_anything_runs(tmp_path: Path) -> None:
    draw_phantom_site(2, 0, tmp_path / "data")
    store = ("--store", tmp_path / "s")
    for text, fault in (
        ("{data: data, partition: random}", "--sites"),
        ("{data: data, sites: 4}", "--sites 4"),
        ("{data: data, partition: 'column:ward'}", "ward"),
        ("{partition: random, sites: 2}", "give --data"),
    ):
        result = call("study", study(tmp_path, f"simulate: {text}\ngrid: {{seed: [0]}}"), *store)
        assert result.exit_code == 2, result.output
        assert fault in result.output
        assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_study_whose_file_is_missing_is_told_what_a_study_is(tmp_path: Path) -> None:
    result = call("study", tmp_path / "none.yaml", "--store", tmp_path / "s")
    assert result.exit_code == 2
    assert "none.yaml: no such file; see hyfree-ray study --help" in result.output
    assert "--config" not in result.output
    assert not (tmp_path / "s").exists()


def test_the_help_of_a_study_names_every_option_that_its_file_may_give() -> None:
    said = call("study", "--help").output
    assert ", ".join(SIMULATE_OPTIONS) in " ".join(said.split())


def made(tmp_path: Path) -> tuple[list[Trial], dict[str, Finished]]:
    """Two sites pooled in two draws, three seeds; more of them gain more."""
    found, runs = [], {}
    for size, draw, extra in ((2, 0, 0.0), (2, 1, 0.002), (3, 0, 0.05)):
        for seed in range(3):
            name = f"{size}-{draw}-{seed}"
            values = {"fold": 0, "seed": seed, "contributors": ["x"]}
            found.append(Trial(name=name, options=(), sites=size, draw=draw, values=values))
            run = finished(tmp_path / name, 0, seed, extra=extra)
            runs[name] = replace(run, folder=run.folder.with_name(name))
    return found, runs


def test_the_curve_is_by_patient_over_draws_and_seeds(tmp_path: Path) -> None:
    few, many = grouped(*made(tmp_path))
    assert (few.name, few.sites, few.draws) == ("2 sites", 2, 2)
    assert (many.name, many.sites, many.draws) == ("3 sites", 3, 1)
    for group, extra in ((few, 0.001), (many, 0.05)):
        (one,) = (c for c in group.contrasts if (c.first, c.tested) == ("finetuned", "foreign"))
        assert one.difference == pytest.approx(GAIN + extra, abs=0.012)
        assert one.patients == sum(-(-count // 5) for count in SITES.values())
        assert (one.seeds, one.said) == (3, "helps")
    assert {name.split()[0] for name in curve_points([few, many])} == {"finetuned", "general"}
    points = curve_points([few, many])["finetuned minus local2x, others"]
    assert [size for size, *_ in points] == [2, 3]
    assert points[1][1] > points[0][1]


def test_further_settings_are_in_the_table_of_a_study_and_not_in_its_curve(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    for name, run in runs.items():
        more = [
            replace(row, regime=regime)
            for row in run.rows
            if row.regime == "finetuned"
            for regime in ("personalised", "chosen", "mix-50")
        ]
        runs[name] = replace(run, rows=(*run.rows, *more))
    groups = grouped(found, runs)
    assert "mix-50" in {one.first for group in groups for one in group.contrasts}
    regimes = ("finetuned", "general", "personalised", "chosen")
    assert list(curve_points(groups)) == [
        f"{regime} minus local2x, {side}" for regime in regimes for side in ("own", "others")
    ]


def test_the_table_of_a_study_has_the_columns_of_results_behind_its_own(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    write_scaling(tmp_path / "scaling.csv", found, runs)
    with (tmp_path / "scaling.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["sites", "draw", *COLUMNS]
    assert len(rows) == sum(len(run.rows) for run in runs.values())
    assert {tuple(row[:2]) for row in rows} == {("2", "0"), ("2", "1"), ("3", "0")}


SAYS_ITS_RUN = "import json; print(json.dumps({'run': 'Made-000'}))"


def done_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[Place, Trial, Finished]:
    """A trial that was run, and its run."""
    monkeypatch.setattr(trials, "PROGRAM", (sys.executable, "-c", SAYS_ITS_RUN))
    place = Place(folder=tmp_path / "studies" / "s", store=tmp_path)
    trial = Trial(name="one", options=("--sites", "2", *options), sites=2, draw=0)
    assert place.finished(trial) is None
    run = finished(tmp_path)
    mark_written(run.folder)
    mark_shown(run.folder)
    assert place.run(trial, "off") == run.name
    assert place.finished(trial) == run.name
    return place, trial, run


def test_a_trial_is_done_while_its_run_and_its_options_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, trial, run = done_trial(tmp_path, monkeypatch)
    assert place.finished(replace(trial, options=("--sites", "3"))) is None
    (run.folder / "summary.json").unlink()
    assert place.finished(trial) is None


def test_a_trial_runs_again_where_its_options_mean_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a default has changed, or the configuration that they name."""
    config = tmp_path / "my.yaml"
    config.write_text("replay_share: 0.5\n")
    place, trial, _ = done_trial(tmp_path, monkeypatch, "--config", str(config))
    config.write_text("replay_share: 0.25\n")
    assert place.finished(trial) is None
    config.write_text("replay_share: 0.5\n")
    assert place.finished(trial) is not None
    with monkeypatch.context() as changed:
        changed.setattr(Experiment.model_fields["warmup"], "default", 0.3)
        Experiment.model_rebuild(force=True)
        assert place.finished(trial) is None
    Experiment.model_rebuild(force=True)
    assert place.finished(trial) is not None


@pytest.mark.parametrize("mark", ["written", "tracked"])
def test_a_trial_runs_again_where_other_code_wrote_its_run_or_mlflow_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    place, trial, run = done_trial(tmp_path, monkeypatch)
    (run.folder / mark).unlink()
    assert place.finished(trial) is None


def test_a_point_of_runs_of_different_kinds_is_refused(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    first, other = found[0].name, found[1].name
    apart = {**runs[other].described["experiment"], "replay_share": 0.5}
    mixed = replace(runs[other], described={**runs[other].described, "experiment": apart})
    with pytest.raises(HyfreeError, match=r"2 sites: .* differ in replay_share: only"):
        grouped(found, {**runs, other: mixed})
    choosing = {
        name: replace(
            run,
            rows=(*run.rows, replace(run.rows[0], regime="chosen")),
            described={**run.described, "choice": CHOICE_VERSION},
        )
        for name, run in runs.items()
    }
    grouped(found, choosing)
    choosing[first] = replace(choosing[first], described=runs[first].described)
    with pytest.raises(HyfreeError, match=f"{first}: its 'chosen' models are by an older rule"):
        grouped(found, choosing)


def test_numbers_are_ranges_and_lists() -> None:
    assert parse_numbers("0-4", "--folds", least=0, most=4) == (0, 1, 2, 3, 4)
    assert parse_numbers("3,0", "--folds", least=0, most=4) == (0, 3)
    for text in ("0-5", "a", "", "4-2", "-1", "0-4000000000000000000"):
        with pytest.raises(HyfreeError, match="--folds"):
            parse_numbers(text, "--folds", least=0, most=4)


def test_options_are_passed_on_as_they_were_typed() -> None:
    options = {"sites": 3, "data": None, "settings": ("syn",), "overrides": ("warmup=0.2",)}
    assert as_arguments(options) == ["--sites", "3", "--settings", "syn", "--set", "warmup=0.2"]


def test_no_settings_are_not_the_default_ones() -> None:
    assert as_arguments({"settings": ()}) == ["--settings", ""]
    assert as_arguments({"settings": None, "contributors": ()}) == []


def test_a_scaling_studys_settings_are_its_trials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passed: dict[str, Any] = {}
    monkeypatch.setattr(study_runs, "run_scale", lambda **options: passed.update(options) or 0)
    call("scale", "--sites", "2,3", "--settings", "personalised", "--config", "my.yaml")
    assert passed["passed"] == [
        *("--config", str(Path("my.yaml").absolute()), "--device", "auto"),
        *("--settings", "personalised"),
    ]
    refused = call("scale", "--sites", "2,3", "--settings", "real")
    assert refused.exit_code == 2
    assert "did you mean 'real-all'" in refused.output


def test_a_scaling_study_of_no_experiment_is_refused_before_anything_runs(tmp_path: Path) -> None:
    given = ("--sites", "2,3", "--store", tmp_path / "s")
    for more, fault in (
        (("--set", "replay_sharee=0.5"), "did you mean 'replay_share'"),
        (("--config", tmp_path / "none.yaml"), "cannot be read"),
    ):
        result = call("scale", *given, *more)
        assert result.exit_code == 2
        assert fault in result.output
        assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_folds_are_not_given_twice(tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "s")]
    for more, fault in (
        (["--folds", "0-9"], "from 0 to 4"),
        (["--folds", "0-1", "--fold", "1"], "leave"),
        (["--folds", "0-1", "--calibrate"], "leave"),
    ):
        result = CliRunner().invoke(main, ["simulate", *more, *store])
        assert result.exit_code == 2
        assert fault in result.output
    assert not (tmp_path / "s").exists()


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations of trials run the real protocol with toy stages."""
    monkeypatch.setattr(trials, "PROGRAM", (sys.executable, "-m", "tests.chaos.toys"))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


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
    assert "error: trial-000: error: resources.site-9: no such site" in result.output
    assert f"(log: {log})" in result.output


def test_a_simulation_that_is_killed_is_told_from_what_it_said_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says = "import os, sys; print('3 of 9 stages', file=sys.stderr, flush=True)"
    killed = f"{says}; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(trials, "PROGRAM", (sys.executable, "-c", killed))
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


def test_a_trial_is_of_the_data_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    label = tmp_path / "labelsTr" / "a.png"
    label.write_bytes(b"before")
    options = ("--data", str(tmp_path), "--budget", "smoke")
    before = trials.resolved(options)
    assert trials.resolved(options) == before
    label.write_bytes(b"corrected")
    assert trials.resolved(options) != before
    assert trials.resolved(options[2:]) not in {before, trials.resolved(options)}


def test_runs_of_data_that_have_changed_are_no_point(tmp_path: Path) -> None:
    runs = {
        name: finished(tmp_path / name, fold, data={site: f"{site}-{name}" for site in SITES})
        for fold, name in enumerate(("before", "after"))
    }
    members = [Trial(name=name, options=(), sites=2, draw=0) for name in runs]
    with pytest.raises(HyfreeError, match="the data have changed"):
        grouped(members, runs)
