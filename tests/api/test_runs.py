"""A finished run as tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyfree_ray import load_run
from hyfree_ray.evaluation.scores import COLUMNS
from tests.refusals import refuses
from tests.results.test_pooled import GAIN, SITES, finished


def test_scores_are_the_rows_of_results_csv(tmp_path: Path) -> None:
    made = finished(tmp_path)
    run = load_run(str(made.folder))
    assert run.name == made.name
    assert run.sites == made.sites
    assert list(run.scores.columns) == list(COLUMNS)
    assert len(run.scores) == len(made.rows)
    for kind, names in (("i", ("round", "seed", "fold", "patient", "case")), ("f", ("value",))):
        assert {run.scores[name].dtype.kind for name in names} == {kind}


def test_contrasts_have_their_verdicts_and_sites_their_advice(tmp_path: Path) -> None:
    run = load_run(finished(tmp_path).folder)
    of_all = run.contrasts[run.contrasts.site.isna()].set_index(["first", "second", "tested"])
    one = of_all.loc[("finetuned", "local2x", "foreign")]
    assert one.difference == pytest.approx(GAIN, abs=0.02)
    assert one.low < one.difference < one.high
    assert (one.verdict, "did not hurt" in one.words) == ("no harm", True)
    assert list(run.verdicts.site) == sorted(SITES)
    assert (run.verdicts.elsewhere > 0).all()
    assert run.verdicts.at_home.dtype == float
    assert run.verdicts.sentence.str.contains("finetuned instead of local2x").all()


def test_what_is_no_run_and_settings_of_another_version_are_one_line(tmp_path: Path) -> None:
    with refuses("run.damaged", "summary.json"):
        load_run(tmp_path)
    folder = finished(tmp_path).folder
    described = json.loads((folder / "summary.json").read_text())
    described["experiment"]["no_such_field"] = 1
    (folder / "summary.json").write_text(json.dumps(described))
    run = load_run(folder)
    with refuses("run.other-version", run.name):
        _ = run.settings
    assert run.summary.experiment["no_such_field"] == 1
