"""One simulation of a study: a value, and when it is done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hyfree_ray.config.experiment import Experiment, Runtime
from hyfree_ray.core.store_root import open_root
from hyfree_ray.results.finished import Finished, mark_shown, mark_written
from hyfree_ray.runners.child import ChildError
from hyfree_ray.runners.resolve import SimulationOptions, resolve_simulation
from hyfree_ray.scheduling.resources import Execution, Resources
from hyfree_ray.studies import trials
from hyfree_ray.studies.trials import StudyFolder, Trial
from tests.results.test_pooled import finished


def trial(runtime: Runtime, **options: object) -> Trial:
    """A trial of what is asked for, as of now."""
    asked = SimulationOptions(**{"sites": 2, "budget": "smoke", **options})
    return Trial(name="one", simulation=resolve_simulation(asked, runtime), draw=0)


def says_its_run(*_: object) -> str:
    """Stands for a run of a simulation, in its process."""
    return "Made-000"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    runtime = Runtime(store=open_root(tmp_path), ray="off", device="cpu")
    return StudyFolder(folder=tmp_path / "studies" / "s", runtime=runtime)


@pytest.fixture
def run(folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """What a trial of two sites ended in, in this process."""
    monkeypatch.setattr(trials, "run_trial", says_its_run)
    monkeypatch.setattr(trials, "call_in_child", lambda function, **_: function())
    one = trial(folder.runtime)
    assert folder.finished(one) is None
    found = finished(tmp_path)
    mark_written(found.folder)
    mark_shown(found.folder)
    assert folder.run(one, "off") == found.name
    assert folder.finished(one) == found.name
    return found


def test_a_trial_is_done_while_its_run_and_its_simulation_are_there(
    folder: StudyFolder, run: Finished
) -> None:
    assert folder.finished(trial(folder.runtime)) == run.name
    assert folder.finished(trial(folder.runtime, sites=3)) is None
    assert folder.finished(trial(folder.runtime, settings=())) is None
    (run.folder / "summary.json").unlink()
    assert folder.finished(trial(folder.runtime)) is None


def test_a_trial_runs_again_once_a_site_has_withdrawn_and_where_its_run_or_its_note_is_damaged(
    folder: StudyFolder, run: Finished, tmp_path: Path
) -> None:
    one = trial(folder.runtime)
    note = tmp_path / "pool" / "withdrawn" / "0123.json"
    note.parent.mkdir(parents=True)
    note.write_text('["site-2"]')
    assert folder.finished(one) is None
    note.unlink()
    for file, damage in (
        (run.folder / "results.csv", ""),
        (folder.folder / "trials/one.json", "{}"),
        (folder.folder / "trials/one.json", "[]"),
    ):
        before = file.read_text()
        file.write_text(damage)
        assert folder.finished(one) is None
        file.write_text(before)
    assert folder.finished(one) == run.name


def test_a_trial_runs_again_where_its_options_mean_something_else(
    folder: StudyFolder, run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a default has changed, or the configuration that they name."""
    config = tmp_path / "my.yaml"
    config.write_text("replay_share: 0.5\n")
    assert folder.finished(trial(folder.runtime, config=config)) is None
    config.write_text("replay_share: 0.25\n")  # the default
    assert folder.finished(trial(folder.runtime, config=config)) == run.name
    with monkeypatch.context() as changed:
        changed.setattr(Experiment.model_fields["warmup"], "default", 0.3)
        Experiment.model_rebuild(force=True)
        assert folder.finished(trial(folder.runtime)) is None
    Experiment.model_rebuild(force=True)
    assert folder.finished(trial(folder.runtime)) == run.name


@pytest.mark.parametrize("mark", ["written", "tracked"])
def test_a_trial_runs_again_where_other_code_wrote_its_run_or_mlflow_lacks_it(
    folder: StudyFolder, run: Finished, mark: str
) -> None:
    (run.folder / mark).unlink()
    assert folder.finished(trial(folder.runtime)) is None


@pytest.mark.usefixtures("run")
def test_a_trial_is_of_the_weights_as_they_are_that_compare_its_images(
    folder: StudyFolder, tmp_path: Path
) -> None:
    def with_weights(content: bytes) -> Trial:
        (tmp_path / "weights.pt").write_bytes(content)
        one = trial(folder.runtime)
        update = {"embedder": "openclip", "embedder_weights": str(tmp_path / "weights.pt")}
        experiment = one.simulation.experiment.model_copy(update=update)
        return replace(one, simulation=replace(one.simulation, experiment=experiment))

    before = with_weights(b"before")
    folder.run(before, "off")
    assert folder.finished(before) is not None
    assert folder.finished(with_weights(b"another")) is None


@pytest.mark.usefixtures("run")
def test_a_trial_is_of_the_data_as_they_are(
    folder: StudyFolder, phantom_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(phantom_folder, tmp_path / "data")
    before = trial(folder.runtime, data=data, sites=None)
    folder.run(before, "off")
    assert folder.finished(trial(folder.runtime, data=data, sites=None)) is not None
    table = data / "sites.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert folder.finished(trial(folder.runtime, data=data, sites=None)) is None


def test_what_lies_in_the_users_folder_is_not_taken_for_a_library(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('that is no library')")
    monkeypatch.chdir(tmp_path)
    resources = {"site-9": Resources()}
    one = replace(trial(folder.runtime), execution=Execution(resources=resources))
    with pytest.raises(ChildError, match="site-9: no such site") as caught:
        folder.run(one, "off")
    assert caught.value.exit_code == 2


def test_a_trial_that_is_refused_says_why_in_its_log(folder: StudyFolder) -> None:
    resources = {"site-9": Resources()}
    one = replace(trial(folder.runtime), execution=Execution(resources=resources))
    with pytest.raises(ChildError) as caught:
        folder.run(one, "off")
    log = folder.logs / "one.log"
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert str(caught.value) == f"one: {line} (log: {log})"
    assert list(folder.folder.iterdir()) == [folder.logs], "and is not remembered"
