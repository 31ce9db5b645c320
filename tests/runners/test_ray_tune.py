"""Trials on Ray Tune: real ones, whose command is a few lines of Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hyfree_ray.runners.ray_tune import run_trials
from hyfree_ray.studies.trials import Place, Trial, TrialError

TOY = """
import json, pathlib, sys
from hyfree_ray.results.finished import mark_shown, mark_written
from hyfree_ray.evaluation.scores import csv_text
store, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(store / "cwd").write_text(str(pathlib.Path.cwd()))
with (store / "began").open("a") as file:
    file.write(name + "\\n")
if name == "broken":
    print("error: something is wrong here", file=sys.stderr)
    sys.exit(2)
(store / "runs" / name).mkdir(parents=True)
(store / "runs" / name / "summary.json").write_text('{"experiment": {}, "sites": []}')
(store / "runs" / name / "results.csv").write_text(csv_text(()))
mark_written(store / "runs" / name)
mark_shown(store / "runs" / name)
print(json.dumps({"run": name}))
"""


def toy(store: Path, name: str) -> Trial:
    return Trial(name=name, options=("-c", TOY, str(store), name), sites=2, draw=0)


def place(store: Path) -> Place:
    return ToyPlace(folder=store / "studies" / "s", store=store)


class ToyPlace(Place):
    """Runs a trial's options as they are."""

    def command(self, trial: Trial, ray: str) -> list[str]:
        return [sys.executable, *trial.options, ray]


@pytest.mark.usefixtures("cluster")
def test_trials_run_once_and_are_remembered(tmp_path: Path) -> None:
    where = place(tmp_path)
    found = [toy(tmp_path, name) for name in ("one", "two", "three")]
    told: list[Trial] = []
    run_trials(found, where, told=told.append)
    assert sorted(trial.name for trial in told) == ["one", "three", "two"]
    assert [where.finished(trial) for trial in found] == ["one", "two", "three"]
    assert sorted((tmp_path / "began").read_text().split()) == ["one", "three", "two"]
    assert (tmp_path / "cwd").read_text() == str(Path.cwd()), "paths among its options are from it"
    assert not (where.folder / "tune").exists()
    changed = Trial(name="one", options=("-c", "other"), sites=2, draw=0)
    assert where.finished(changed) is None


@pytest.mark.usefixtures("cluster")
def test_a_trial_that_fails_is_named_and_the_others_end(tmp_path: Path) -> None:
    where = place(tmp_path)
    found, told = [toy(tmp_path, name) for name in ("broken", "whole")], []
    with pytest.raises(TrialError, match=r"broken: error: something is wrong here \(log: "):
        run_trials(found, where, parallel=1, told=told.append)
    assert [trial.name for trial in told] == ["whole"]
    assert where.finished(found[0]) is None
    assert where.finished(found[1]) == "whole"
