"""Studies: what would be run, and what is read from it. The runs are made up."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.config.budget import budget_values
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.evaluation.choice import CHOICE_VERSION
from hyfree_ray.evaluation.scores import COLUMNS
from hyfree_ray.results.finished import Finished
from hyfree_ray.runners.resolve import SimulationOptions
from hyfree_ray.studies.curves import curve_points, grouped, same_scores, write_scaling
from hyfree_ray.studies.designs import draw_subsets, phases, scale_trials
from hyfree_ray.studies.grids import grid_trials, read_study
from hyfree_ray.studies.trials import Trial
from tests.commands.test_study_command import study
from tests.refusals import refused, refuses
from tests.results.test_pooled import GAIN, SITES, finished
from tests.toys import toy_simulation

SIMULATION = toy_simulation(3)

NAMES = [f"site-{k}" for k in range(1, 9)]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """A store that nobody has made yet."""
    return Runtime(store=tmp_path / "store", ray="off", device="cpu")


def test_subsets_are_random_different_and_the_same_next_time() -> None:
    drawn = draw_subsets(NAMES, 3, 6)
    assert len(set(drawn)) == 6
    assert all(len(set(subset)) == 3 for subset in drawn)
    assert drawn == draw_subsets(NAMES, 3, 6) == draw_subsets(list(reversed(NAMES)), 3, 6)
    assert drawn[:2] == draw_subsets(NAMES, 3, 2)
    assert {name for subset in drawn for name in subset} > set(NAMES[:3])  # no prefixes
    assert draw_subsets(NAMES, 8, 5) == [tuple(NAMES)]
    with refuses("option.out-of-range", "--sites 9", "2 to 8"):
        draw_subsets(NAMES, 9, 1)


def test_a_scaling_study_is_all_sizes_draws_folds_and_seeds(runtime: Runtime) -> None:
    options = SimulationOptions(budget="smoke")
    found = scale_trials(options, runtime, (2, 8), repeats=2, folds=(0, 1), seeds=2)
    assert len(found) == (2 + 1) * 2 * 2
    assert len({trial.name for trial in found}) == len(found)
    assert {(t.simulation.experiment.fold, t.simulation.experiment.seed) for t in found} == {
        (0, 0), (0, 1), (1, 0), (1, 1)
    }  # fmt: skip
    whole = [trial for trial in found if trial.sites == 8]
    assert not any(trial.simulation.contributors for trial in whole)
    part = next(trial for trial in found if trial.sites == 2)
    assert list(part.simulation.contributors) == part.values["contributors"]
    assert part.simulation.sites is whole[0].simulation.sites, "kept once, however many draws"
    first, then = phases(found)
    assert first == whole  # they train every generator that the others need
    assert len(then) == 8


def test_a_grid_is_every_combination(tmp_path: Path, runtime: Runtime) -> None:
    path = study(
        tmp_path,
        "simulate: {budget: smoke, settings: [real-all, syn]}\n"
        "grid: {sites: [2, 3], budget.synthesis.per_real: [1.0, 4.0], seed: [0, 1]}\n",
    )
    found = grid_trials(read_study(str(path)), runtime)
    assert len(found) == 8
    experiments = [trial.simulation.experiment for trial in found]
    assert {one.settings for one in experiments} == {("real-all", "syn")}
    assert [one.budget.synthesis.per_real for one in experiments] == [1.0, 1.0, 4.0, 4.0] * 2
    assert [one.seed for one in experiments] == [0, 1] * 4
    assert [trial.sites for trial in found] == [2] * 4 + [3] * 4
    assert found[-1].values == {"sites": 3, "budget.synthesis.per_real": 4.0, "seed": 1}


def test_a_budget_varies_by_name_and_files_are_beside_the_study(
    phantom_folder: Path, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(phantom_folder, folder / "Dataset001_X")
    (folder / "my.yaml").write_text("warmup: 0.2\nresources: {default: {cpus: 0.5}}\n")
    path = study(
        folder,
        "simulate: {config: my.yaml, data: Dataset001_X}\n"
        "grid: {budget: [smoke, small], generator: [flow], seed: [0]}\n",
    )
    monkeypatch.chdir(tmp_path)
    for one in grid_trials(read_study(str(path.relative_to(tmp_path))), runtime):
        assert one.simulation.experiment.warmup == 0.2
        assert one.execution.resources["default"].cpus == 0.5
        assert one.simulation.experiment.budget.model_dump() == budget_values(one.values["budget"])
        (site,) = one.simulation.sites.values()
        assert site.folder == folder / "Dataset001_X"


def test_an_embedders_weights_are_found_whatever_folder_a_trial_runs_in(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were typed: from a study's file's folder, or from the user's."""
    monkeypatch.chdir(tmp_path)
    overrides = ("embedder=nnunet", "embedder_weights=weights.pt")
    options = SimulationOptions(budget="smoke", overrides=overrides)
    found = scale_trials(options, runtime, (2,), repeats=1, folds=(0,), seeds=1)
    grid = "simulate: {budget: smoke}\n"
    grid += "grid: {embedder: [nnunet], embedder_weights: [weights.pt]}\n"
    found += grid_trials(read_study(str(study(tmp_path, grid))), runtime)
    for trial in found:
        assert trial.simulation.experiment.embedder_weights == str(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("text", "code", "fault"),
    [
        ("grid: {budget: [tiny]}", "config.unknown-budget", "'tiny'"),
        ("grid: {budget: [{unet: 3}]}", "study.bad-value", "{'unet': 3}"),
        (
            "grid: {budget.synthesis.per_reel: [1]}",
            "config.unknown-key",
            "'budget.synthesis.per_real'",
        ),
        ("grid: {fold: [7]}", "config.bad-value", "fold: "),
        ("grid: {seed: 3}", "study.bad-value", "seed: "),
        ("grid: {fold: [1], seed: [0, 2, 0]}", "study.bad-value", "grid: seed: 0 "),
        ("grid: {budget.synthesis.per_real: [4, 4.0]}", "study.bad-value", ": 4.0 "),
        ("simulate: {data: none}\ngrid: {seed: [0]}", "data.not-found", "none"),
        ("grid: {}", "study.bad-value", "'grid'"),
        ("grids: {seed: [1]}", "study.unknown-key", "'grids'"),
        ("simulate: {store: x}\ngrid: {seed: [1]}", "study.unknown-key", "'store'"),
        ("grid: {sites: [two]}", "study.bad-value", "'two'"),
        ("grid: {seed: [1], embedder: [nnunet, openclip]}", "embedder.no-weights", "openclip"),
        ("grid: {sites: [true]}", "study.bad-value", "True"),
        ("grid: {sites: [2, 65]}", "option.out-of-range", "--sites 65: "),
        ("simulate: {budget: }\ngrid: {seed: [1]}", "study.bad-value", "simulate: budget: "),
        ("grid: {embedder_weights: [a, b]}", "study.bad-value", "embedder_weights"),
        (
            "simulate: {settings: [syn, 50]}\ngrid: {seed: [1]}",
            "option.unknown-setting",
            "settings: 50 ",
        ),
    ],
)
def test_a_study_that_is_wrong_is_refused_before_anything_runs(
    tmp_path: Path, text: str, code: str, fault: str
) -> None:
    result = CliRunner().invoke(
        main, ["study", str(study(tmp_path, text)), "--store", str(tmp_path / "s")]
    )
    refused(result, code, fault)
    assert result.output.count("\n") == 1
    assert not (tmp_path / "s").exists()


def trial(name: str, size: int, draw: int, **values: Any) -> Trial:
    """A trial of some of three sites."""
    contributors = () if size == len(SIMULATION.sites) else tuple(SIMULATION.sites)[:size]
    simulation = replace(SIMULATION, contributors=contributors)
    return Trial(name=name, simulation=simulation, draw=draw, values=values)


def made(tmp_path: Path) -> tuple[list[Trial], dict[str, Finished]]:
    """Two sites pooled in two draws, three seeds; more of them gain more."""
    found, runs = [], {}
    for size, draw, extra in ((2, 0, 0.0), (2, 1, 0.002), (3, 0, 0.05)):
        for seed in range(3):
            name = f"{size}-{draw}-{seed}"
            found.append(trial(name, size, draw, fold=0, seed=seed, contributors=["x"]))
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
        assert (one.seeds, one.family) == (3, "further")
        assert one.share == pytest.approx(1 / 8), "the lines of both points are read together"
        said = one.describe()
        assert said.startswith("helps") if extra > 0.01 else said.endswith("3 seeds)"), said
    assert {name.split()[0] for name in curve_points([few, many])} == {"finetuned", "general"}
    points = curve_points([few, many])["finetuned minus local2x, elsewhere"]
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
        f"{regime} minus local2x, {side}" for regime in regimes for side in ("own", "elsewhere")
    ]


def test_points_are_named_by_what_varies_and_those_that_scored_the_same_are_told(
    tmp_path: Path,
) -> None:
    """As where a release is at the most images that a site may give."""
    found, runs = [], {}
    for draw, (per_real, extra) in enumerate(((1, 0.0), (4, 0.1), (20, 0.1))):
        values = {"budget.synthesis.per_real": per_real, "precision": "fp32"}
        found.append(trial(f"t-{draw}", 3, draw, **values))
        runs[f"t-{draw}"] = finished(tmp_path / str(draw), 0, extra=extra)
    names = [f"budget.synthesis.per_real {per_real}" for per_real in (1, 4, 20)]
    assert [group.name for group in grouped(found, runs)] == names
    assert same_scores(found, runs) == [names[1:]]


def test_a_study_that_varies_more_than_the_number_of_sites_has_no_curve(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    groups = grouped(found, runs)
    assert curve_points(groups) == curve_points(groups[::-1])
    assert curve_points(groups[:1]) == {}
    assert curve_points([*groups, replace(groups[0], name="the same number, otherwise")]) == {}


def test_a_sentence_of_a_study_counts_the_seeds_in_which_its_regimes_were_scored(
    tmp_path: Path,
) -> None:
    found, runs = made(tmp_path)
    for name, run in runs.items():
        if run.seed > 0:
            kept = tuple(row for row in run.rows if row.regime != "finetuned")
            runs[name] = replace(run, rows=kept)
    for one in (one for group in grouped(found, runs) for one in group.contrasts):
        assert one.seeds == (1 if one.first == "finetuned" else 3)
        assert "helps" not in one.describe() or one.first == "general"


def test_runs_before_and_after_a_withdrawal_are_no_point(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    summary = runs["2-0-1"].summary
    first, *others = summary.sites
    gone = replace(first, outcome=replace(first.outcome, outcome="withdrawn"))
    runs["2-0-1"] = replace(runs["2-0-1"], summary=replace(summary, sites=(gone, *others)))
    with refuses("results.settings-differ", "withdrawn"):
        grouped(found, runs)


def test_a_quota_that_a_budget_caps_is_said_before_anything_runs(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    quota = "budget.synthesis.per_real: [1, 20]"

    def read(grid: str) -> None:
        path = study(tmp_path, f"simulate: {{budget: small}}\ngrid: {{{grid}}}")
        grid_trials(read_study(str(path)), runtime)

    read(quota)
    assert "a site releases at most 300 images" in caplog.text
    caplog.clear()
    for grid in (f"{quota}, budget.synthesis.max_images: [null]", "seed: [0, 1]"):
        read(grid)
    assert not caplog.text


def test_the_table_of_a_study_has_the_columns_of_results_behind_its_own(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    write_scaling(tmp_path / "scaling.csv", found, runs)
    with (tmp_path / "scaling.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["sites", "draw", *COLUMNS]
    assert len(rows) == sum(len(run.rows) for run in runs.values())
    assert {tuple(row[:2]) for row in rows} == {("2", "0"), ("2", "1"), ("3", "0")}


def test_a_point_of_runs_of_different_kinds_is_refused(tmp_path: Path) -> None:
    found, runs = made(tmp_path)
    first, other = found[0].name, found[1].name
    apart = {**runs[other].summary.experiment, "replay_share": 0.5}
    mixed = replace(runs[other], summary=replace(runs[other].summary, experiment=apart))
    with refuses("results.settings-differ", "2 sites: ", "replay_share"):
        grouped(found, {**runs, other: mixed})
    choosing = {
        name: replace(
            run,
            rows=(*run.rows, replace(run.rows[0], regime="chosen")),
            summary=replace(run.summary, choice=CHOICE_VERSION),
        )
        for name, run in runs.items()
    }
    grouped(found, choosing)
    choosing[first] = replace(choosing[first], summary=runs[first].summary)
    with refuses("run.other-version", f"{first}: ", "'chosen'"):
        grouped(found, choosing)


def test_runs_of_data_that_have_changed_are_no_point(tmp_path: Path) -> None:
    runs = {
        name: finished(tmp_path / name, fold, data={site: f"{site}-{name}" for site in SITES})
        for fold, name in enumerate(("before", "after"))
    }
    members = [trial(name, 2, 0) for name in runs]
    with refuses("results.patients-differ"):
        grouped(members, runs)
