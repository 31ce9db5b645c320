"""Several runs as one, and one against another: made-up runs of two uneven sites."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.commands import report
from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.choice import CHOICE_VERSION
from hyfree_ray.evaluation.scores import ScoreRow, write_results
from hyfree_ray.reports import figures
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.finished import Finished, find_run, mark_written, read_finished
from hyfree_ray.results.pooled import compare_runs, pool_runs
from hyfree_ray.results.pooled_table import render_pooled
from hyfree_ray.results.published import published_for
from hyfree_ray.results.summary import Partition, SiteOutcome
from hyfree_ray.results.table import table_text
from tests.refusals import refused, refuses
from tests.results.test_results import row

SITES = {"north": 60, "south": 35}
GAIN = 0.04


def rows(run: str, fold: int, seed: int, extra: float = 0.0) -> Iterator[ScoreRow]:
    """Fine-tuning gains `GAIN`; a training shifts its whole fold a little."""
    level = np.random.default_rng(7)
    noise = np.random.default_rng([fold, seed])
    levels = {site: level.uniform(0.5, 0.8, count) for site, count in SITES.items()}
    for test, count in SITES.items():
        for patient in range(fold, count, 5):
            for regime, owners, gain in (
                ("local", SITES, -0.02),
                ("local2x", SITES, 0.0),
                ("general", (POOL,), 0.01),
                ("finetuned", SITES, GAIN + extra),
            ):
                for train in owners:
                    value = levels[test][patient] + gain + noise.normal(0, 0.02)
                    made = row(regime, train, test, patient, patient, float(value))
                    made = dataclasses.replace(made, run=run, seed=seed, fold=fold)
                    yield made
                    yield dataclasses.replace(made, metric="hd95", value=5.0)


@functools.cache
def summarised(name: str, fold: int, seed: int, extra: float) -> tuple[tuple[ScoreRow, ...], str]:
    """A run's scores, and what its summary says of them, as JSON."""
    found = tuple(rows(name, fold, seed, extra))
    outcomes = [
        SiteOutcome(site=site, outcome="released", images=40, rejection_rate=0.1) for site in SITES
    ]
    summary = summarise(name, found, counts={}, outcomes=outcomes)
    return found, json.dumps(summary.to_json())


def finished(
    tmp_path: Path, fold: int = 0, seed: int = 0, *, extra: float = 0.0, **settings: Any
) -> Finished:
    """A run's folder in the store `tmp_path`, as an observer leaves it."""
    name = f"Made-{fold}{seed}{len(settings)}{'x' if extra else ''}"
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    found, summary = summarised(name, fold, seed, extra)
    data = settings.pop("data", {site: f"{site}-cases" for site in SITES})
    described = {
        **json.loads(summary),
        "cohort": "Made",
        "data": data,
        "experiment": {"fold": fold, "seed": seed, "budget": {"unet": {"epochs": 3}}, **settings},
    }
    (folder / "summary.json").write_text(json.dumps(described))
    write_results(folder / "results.csv", found)
    return read_finished(folder)


def test_cells_are_the_mean_and_spread_of_the_folds(tmp_path: Path) -> None:
    runs = [finished(tmp_path, fold, seed) for fold in range(3) for seed in (0, 1)]
    pooled = pool_runs(runs)
    assert (pooled.folds, pooled.seeds) == ((0, 1, 2), (0, 1))
    assert pooled.regimes == ("local", "local2x", "general", "finetuned")
    (cell,) = (
        c
        for c in pooled.cells["dice"]
        if (c.regime, c.train_site, c.test_site) == ("finetuned", "north", "south")
    )
    by_fold = [
        np.mean(
            [
                row.value
                for run in runs
                for row in run.rows
                if (row.fold, row.metric, row.regime) == (fold, "dice", "finetuned")
                and (row.train_site, row.test_site) == ("north", "south")
            ]
        )
        for fold in range(3)
    ]
    assert cell.mean == pytest.approx(np.mean(by_fold))
    assert cell.sd == pytest.approx(np.std(by_fold, ddof=1))
    assert cell.folds == 3


def test_folds_add_patients_and_seeds_do_not(tmp_path: Path) -> None:
    runs = [finished(tmp_path, fold, seed) for fold in range(5) for seed in range(3)]
    (one,) = (
        c
        for c in pool_runs(runs).contrasts
        if (c.first, c.site, c.tested) == ("finetuned", None, "own")
    )
    assert one.patients == sum(SITES.values())
    assert one.seeds == 3
    assert one.describe() == "helps"
    assert one.difference == pytest.approx(GAIN, abs=0.01)
    (fewer,) = (
        c
        for c in pool_runs(runs[::3]).contrasts
        if (c.first, c.site, c.tested) == ("finetuned", None, "own")
    )
    assert (fewer.seeds, fewer.describe()) == (1, "helped")


def test_the_caveat_is_of_how_many_seeds_there_are(tmp_path: Path) -> None:
    runs = [finished(tmp_path, 0, seed) for seed in range(3)]
    assert [pool_runs(runs[:count]).caveat for count in (1, 2, 3)] == [
        "one seed; training noise not included",
        "two seeds: training noise is poorly known",
        "",
    ]


def test_another_drawing_of_a_site_has_other_patients(tmp_path: Path) -> None:
    same = [finished(tmp_path / "a", 0, seed) for seed in (0, 1)]
    other = [
        finished(tmp_path / "b", 0, seed, data={site: f"{site}-{seed}" for site in SITES})
        for seed in (0, 1)
    ]
    for runs, patients in ((same, 12 + 7), (other, 2 * (12 + 7))):
        found = [c for c in pool_runs(runs).contrasts if c.site is None]
        assert {c.patients for c in found} == {patients}


def test_runs_that_differ_otherwise_are_not_pooled(tmp_path: Path) -> None:
    one, other = finished(tmp_path), finished(tmp_path, 1, warmup=0.2)
    with refuses("results.settings-differ", "warmup"):
        pool_runs([one, other])
    with refuses("results.same-fold", "fold 0", "seed 0"):
        pool_runs([one, one])


def test_a_run_of_before_generators_had_settings_is_read_and_not_pooled_with_one_after(
    tmp_path: Path,
) -> None:
    widths = {"stylegan2_max_channels": 32, "flow_max_channels": 64}
    before = finished(tmp_path, generator="flow", budget={"generator": widths})
    after = finished(tmp_path, 1, generator={"name": "flow", "config": {"max_channels": 64}})
    assert [row.regime for row in before.rows] == [row.regime for row in after.rows]
    with refuses("results.settings-differ", "generator.name"):
        pool_runs([before, after])


def test_one_seed_with_other_patients_is_not_pooled(tmp_path: Path) -> None:
    """As two partitions of one data set are, or a data set that has changed between the folds."""
    one = finished(tmp_path, 0)
    other = finished(tmp_path, 1, data={"north": "north-dealt-anew", "south": "south-cases"})
    with refuses("results.patients-differ", "seed 0", "north"):
        pool_runs([one, other])
    apart = replaced(finished(tmp_path, 2), contributors=("north",))
    with refuses("results.settings-differ", "contributors"):
        pool_runs([one, apart])
    dealt = [
        replaced(finished(tmp_path / how, seed, seed), partition=Partition(how=how, sites=2))
        for seed, how in enumerate(("random", "dirichlet"))
    ]
    with refuses("results.settings-differ", "partition"):
        pool_runs(dealt)
    earlier = dataclasses.replace(other, summary=dataclasses.replace(other.summary, data=None))
    assert pool_runs([one, earlier]).folds == (0, 1)


def test_runs_whose_models_were_chosen_by_different_rules_are_not_pooled(tmp_path: Path) -> None:
    runs = [finished(tmp_path, fold) for fold in (0, 1)]
    older, newer = runs[0], replaced(runs[1], choice=CHOICE_VERSION)
    assert pool_runs([older, newer]).folds == (0, 1), "nothing is chosen in them"
    older, newer = (
        dataclasses.replace(
            run, rows=(*run.rows, dataclasses.replace(run.rows[0], regime="chosen"))
        )
        for run in (older, newer)
    )
    with refuses("run.other-version", f"{older.name}: ", "'chosen'", "'simulate'"):
        pool_runs([newer, older])
    assert pool_runs([replaced(older, choice=CHOICE_VERSION), newer]).folds == (0, 1)


@pytest.mark.parametrize("command", [["results", "--format", "csv"], ["results"], ["report"]])
def test_a_run_that_is_named_twice_is_refused_in_one_line(
    tmp_path: Path, command: list[str]
) -> None:
    run = finished(tmp_path).name
    result = CliRunner().invoke(main, [*command, run, run, "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output == f"error: {run}: named twice; name each run once\n"


def test_reports_of_other_runs_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(_runs: Any, folder: Path, **_: Any) -> Path:
        written.append(folder)
        return folder

    monkeypatch.setattr("hyfree_ray.reports.report.write_report", write)
    a, b, c = (finished(tmp_path, fold).name for fold in range(3))
    for runs in ([a, b], [a, c], [b, a], [a]):
        report.run_report(runs, tmp_path, out=None, study=None, with_real=())
    assert len(set(written)) == 4
    assert written[-1].name == a


def replaced(run: Finished, **more: Any) -> Finished:
    return dataclasses.replace(run, summary=dataclasses.replace(run.summary, **more))


def test_a_missing_model_is_not_replaced_by_another_sites(tmp_path: Path) -> None:
    """A site's model that one run lacks: its comparison is left out, whoever else was there."""
    one, other = finished(tmp_path, extra=0.05), finished(tmp_path, warmup=0.2)
    third = [dataclasses.replace(row, train_site="west", value=0.1) for row in one.rows]
    without = tuple(
        row for row in one.rows if (row.regime, row.train_site) != ("finetuned", "north")
    )
    wider = dataclasses.replace(one, rows=(*without, *third))
    found = {(c.first, c.site, c.tested): c for c in compare_runs(wider, other)}
    assert found["first:finetuned", "north", "own"].difference is None
    assert found["first:finetuned", "south", "own"].difference == pytest.approx(0.05, abs=1e-6)


def test_a_comparison_is_between_the_same_patients(tmp_path: Path) -> None:
    one, other = finished(tmp_path, extra=0.05), finished(tmp_path, warmup=0.2)
    found = {(c.first, c.site, c.tested): c for c in compare_runs(one, other)}
    tuned = found["first:finetuned", None, "foreign"]
    assert tuned.difference == pytest.approx(0.05, abs=1e-6)
    assert tuned.verdict == "helped"
    assert found["first:local", None, "own"].difference == pytest.approx(0.0, abs=1e-6)
    elsewhere = finished(tmp_path / "b", data={"north": "other", "south": "south-cases"})
    with refuses("results.patients-differ", "north"):
        compare_runs(one, elsewhere)
    with refuses("results.patients-differ", "folds 0 and 1"):
        compare_runs(one, finished(tmp_path, 1))


@pytest.mark.parametrize("width", [70, 80, 120])
def test_the_papers_layout_fits_the_terminal(tmp_path: Path, width: int) -> None:
    text = table_text(
        render_pooled(pool_runs([finished(tmp_path, f) for f in (0, 1)])), width=width
    )
    assert max(len(line) for line in text.splitlines()) <= width
    assert "mean ± sd over 2 folds" in " ".join(text.split())
    assert "finetuned" in text
    assert " ".join(text.split()).count("one seed; training noise not included") == 1


def test_the_papers_figures_stand_below_those_of_its_cohorts_and_no_others(tmp_path: Path) -> None:
    made = pool_runs([finished(tmp_path, f) for f in (0, 1)])
    assert "published" not in table_text(render_pooled(made), width=120)
    names = dict(zip(made.sites, ("Kvasir", "CVC"), strict=True)) | {POOL: POOL}
    cells = {
        metric: tuple(
            dataclasses.replace(
                cell, train_site=names[cell.train_site], test_site=names[cell.test_site]
            )
            for cell in found
        )
        for metric, found in made.cells.items()
    }
    polyp = dataclasses.replace(
        made, sites=("Kvasir", "CVC"), cells=cells, contrasts=(), verdicts=()
    )
    lines = table_text(render_pooled(polyp), width=140).splitlines()
    below = [lines[k + 1].split() for k, line in enumerate(lines) if line.startswith(" Kvasir")]
    assert below[0] == ["published", "89.7±1.4", "69.3±2.5", "87.7±1.4", "90.3±1.4", "82.7±3.4"]
    assert sum("published" in line for line in lines) == 2 + 1  # the source; no HD95 is published


def test_the_papers_lung_stands_below_two_random_sites_of_its_cohort() -> None:
    lung = published_for("QaTa-COV19", ("site-1", "site-2"), "random")
    assert lung.dice["finetuned", "site-2", "site-1"] == (0.763, 0.017)
    assert "6,307 images" in lung.source
    for cohort, sites, how in (
        ("QaTa-COV19", ("site-1", "site-2"), "dirichlet"),
        ("QaTa-COV19", ("site-1", "site-2", "site-3"), "random"),
        ("Other", ("site-1", "site-2"), "random"),
    ):
        assert not published_for(cohort, sites, how).dice


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_who_looks_at_a_run_of_another_version_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's statistics are those that it was told with, several runs' are made anew."""
    monkeypatch.setattr(figures, "_saved", lambda _, form: form.encode())
    (one, _) = [finished(tmp_path, fold).name for fold in (0, 1)]
    shown = ("results", one, "--store", tmp_path)
    for command in (shown, ("report", one, "--store", tmp_path, "--out", tmp_path / "report")):
        assert f"warning: {one}: another version wrote this" in call(*command).stderr
    mark_written(tmp_path / "runs" / one)
    assert not call(*shown).stderr


def test_the_command_prints_one_run_many_and_a_comparison(tmp_path: Path) -> None:
    runs = [finished(tmp_path, fold) for fold in (0, 1)]
    other = finished(tmp_path, warmup=0.2)
    names = [run.name for run in runs]
    store = ("--store", tmp_path)
    assert "all sites" in call("results", names[0], *store).output
    assert "2 runs, folds 0, 1, seeds 0" in call("results", *names, *store).output
    pooled = json.loads(call("results", *names, *store, "--format", "json").output)
    assert pooled["runs"] == names
    compared = call("results", "--compare", names[0], other.name, *store)
    assert compared.exit_code == 0
    assert "warmup: None against 0.2" in compared.output
    assert compared.output.count("two runs; training noise not included") == 1
    lines = call("results", *names, *store, "--format", "csv").output.splitlines()
    assert len(lines) == 1 + sum(len(run.rows) for run in runs)
    alone = call("results", "--compare", names[0], *store)
    refused(alone, "option.conflict", "--compare")


def test_a_folder_that_is_not_a_run_is_a_users_mistake(tmp_path: Path) -> None:
    run = finished(tmp_path)
    with refuses("run.not-found", "'none'", "Made-000"):
        find_run(tmp_path, "none")
    (run.folder / "summary.json").write_text("[]")
    with refuses("run.damaged", "summary.json"):
        read_finished(run.folder)
