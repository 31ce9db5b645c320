"""One simulation of a study: its options, and when it is done."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.results.finished import Finished, mark_shown, mark_written
from hyfree_ray.studies import trials
from hyfree_ray.studies.trials import Place, Trial, as_arguments, parse_numbers
from tests.results.test_pooled import finished

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


def test_a_trial_runs_again_once_a_site_has_withdrawn_and_where_its_run_or_its_note_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, trial, run = done_trial(tmp_path, monkeypatch)
    note = tmp_path / "pool" / "withdrawn" / "0123.json"
    note.parent.mkdir(parents=True)
    note.write_text('["site-2"]')
    assert place.finished(trial) is None
    note.unlink()
    for file, damage in (
        (run.folder / "results.csv", ""),
        (place.folder / "trials/one.json", "{}"),
    ):
        before = file.read_text()
        file.write_text(damage)
        assert place.finished(trial) is None
        file.write_text(before)
    assert place.finished(trial) == run.name


def test_what_lies_in_the_users_folder_is_not_taken_for_a_library(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('that is no library')")
    place = Place(folder=tmp_path / "studies" / "s", store=tmp_path / "s", cwd=tmp_path)
    trial = Trial(name="one", options=("--sites", "65"), sites=65, draw=0)
    with pytest.raises(trials.TrialError, match="the phantom has 1 to 64 sites") as caught:
        place.run(trial, "off")
    assert caught.value.code == 2


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


def test_a_trial_is_of_the_weights_as_they_are_that_compare_its_images(tmp_path: Path) -> None:
    options = ("--budget", "smoke", "--set", "embedder_weights=weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"before")
    before = trials.resolved(options, tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"another")
    assert trials.resolved(options, tmp_path) != before


def test_a_trial_is_of_the_data_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    label = tmp_path / "labelsTr" / "a.png"
    label.write_bytes(b"before")
    options = ("--data", str(tmp_path), "--budget", "smoke")
    before = trials.resolved(options, tmp_path)
    assert trials.resolved(options, tmp_path) == before
    label.write_bytes(b"corrected")
    assert trials.resolved(options, tmp_path) != before
    assert trials.resolved(options[2:], tmp_path) not in {
        before,
        trials.resolved(options, tmp_path),
    }
