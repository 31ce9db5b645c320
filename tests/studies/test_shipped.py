"""Studies that come with the package, and what the command line changes of a study."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.generators import GENERATORS
from hyfree_ray.studies.grids import SHIPPED, Changes, grid_trials, read_study, shipped_names
from tests.commands.test_study_command import study
from tests.refusals import refused, refuses


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """A store that nobody has made yet."""
    return Runtime(store=tmp_path / "store", ray="off", device="cpu")


def test_the_study_of_akbar_is_all_generators_at_one_hospital_with_pairs_drawn_jointly(
    runtime: Runtime,
) -> None:
    changes = Changes(simulate={"budget": "smoke"}, grid=("seed=0",))
    found = grid_trials(read_study("akbar", changes), runtime)
    experiments = [trial.simulation.experiment for trial in found]
    assert {one.generator.name for one in experiments} == set(GENERATORS.names())
    assert {one.generator.pairing for one in experiments} == {"joint"}
    assert {trial.simulation.cohort for trial in found} == {"BrainPhantom"}
    assert {len(trial.simulation.sites) for trial in found} == {1}
    for one in experiments:
        assert {"syn", "syn-noda", "augment-1", "augment-1-noda", "mix-50"} <= set(one.settings)
        assert not one.gate.quality.enforced
        assert one.segmenter == "nnunet"
        assert one.budget.unet.finetune_epochs == 1  # all trainings are as long, or one less


def test_the_study_of_vu_is_of_all_hospitals_and_ways_to_come_by_masks(runtime: Runtime) -> None:
    study = read_study("vu", Changes(simulate={"budget": "smoke", "sites": 3}, grid=("seed=0",)))
    found = grid_trials(study, runtime)
    experiments = [trial.simulation.experiment for trial in found]
    assert {one.generator.pairing for one in experiments} == {"labelled", "joint", "conditional"}
    assert {one.generator.name for one in experiments} == {"stylegan2"}
    assert [len(trial.simulation.sites) for trial in found] == [3, 3, 3]
    assert all("augment-20" in one.settings for one in experiments)
    assert study.name.startswith("vu-")
    assert read_study("vu").name == "vu"


def test_other_data_take_the_place_of_the_phantom_and_of_the_number_of_its_hospitals(
    phantom_folder: Path, runtime: Runtime
) -> None:
    data = str(phantom_folder.absolute())
    changes = Changes(simulate={"data": data, "budget": "smoke"}, grid=("generator=flow", "seed=0"))
    (trial,) = grid_trials(read_study("akbar", changes), runtime)
    (site,) = trial.simulation.sites.values()
    assert site.folder == phantom_folder.resolve()
    several = Changes(simulate={"budget": "smoke"}, grid=(f"data={data}", "pairing=joint"))
    for one in grid_trials(read_study("vu", several), runtime):
        assert one.values["data"] == data
    with refuses("option.conflict", "--data", "--grid data"):
        read_study("vu", Changes(simulate={"data": data}, grid=(f"data={data}",)))


def test_a_list_of_the_grid_and_a_field_of_all_trials_are_changed_by_the_command_line(
    tmp_path: Path, runtime: Runtime
) -> None:
    path = str(study(tmp_path, "simulate: {budget: smoke}\ngrid: {sites: [2, 3], seed: [0]}"))
    changes = Changes(simulate={"sites": 2}, grid=("seed=4, 5",), overrides=("warmup=0.3",))
    found = read_study(path, changes)
    trials = grid_trials(found, runtime)
    assert [trial.values for trial in trials] == [{"seed": 4}, {"seed": 5}]
    assert {trial.simulation.experiment.warmup for trial in trials} == {0.3}
    assert found.name != read_study(path, Changes(grid=("seed=4",))).name
    for grid, code in (
        ("seed", "option.malformed"),
        ("seed=", "option.malformed"),
        ("seed=1,1", "study.bad-value"),
        ("seed=[1", "config.bad-yaml"),
    ):
        with refuses(code, "seed"):
            read_study(path, Changes(grid=(grid,)))
    with refuses("option.conflict", "--set seed=1", "--grid seed=1"):
        read_study(path, Changes(overrides=("seed=1",)))


def test_a_name_that_is_no_study_is_refused_and_told_which_there_are(tmp_path: Path) -> None:
    assert shipped_names() == ("akbar", "vu")
    result = CliRunner().invoke(main, ["study", "akba", "--store", str(tmp_path / "s")])
    line = refused(result, "study.not-found", "akba")
    assert "akbar, vu" in line
    assert not (tmp_path / "s").exists()


def test_a_copy_of_a_shipped_study_is_read_as_the_shipped_one(tmp_path: Path) -> None:
    for name in shipped_names():
        shutil.copy(SHIPPED / f"{name}.yaml", tmp_path / "mine.yaml")
        mine, ours = read_study(str(tmp_path / "mine.yaml")), read_study(name)
        assert (mine.simulate, mine.grid, mine.reading) == (ours.simulate, ours.grid, ours.reading)


@pytest.mark.parametrize(
    ("report", "code", "fault"),
    [
        ("{tables: [syn]}", "study.unknown-key", "table"),
        ("[syn]", "study.unknown-key", "report"),
        ("{table: syn}", "study.bad-value", "table"),
        ("{table: [sin]}", "option.unknown-setting", "'sin'"),
        ("{kid: [syn]}", "option.unknown-setting", "kid"),
    ],
)
def test_a_report_of_what_is_no_regime_is_refused(
    tmp_path: Path, report: str, code: str, fault: str
) -> None:
    path = study(tmp_path, f"grid: {{seed: [0]}}\nreport: {report}")
    with refuses(code, "quota.yaml", fault):
        read_study(str(path))


def test_a_plan_counts_trainings_once_however_many_trials_need_them(tmp_path: Path) -> None:
    grids = [("--grid", one) for one in ("generator=flow,stylegan2", "seed=0")]
    asked = ["study", "akbar", "--budget", "smoke", "--dry-run", "--ray", "off"]
    asked += [*sum(grids, ()), "--store", str(tmp_path / "s")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    # Of each generator itself, syn, augment-1 and mixtures; of real images alone, three for both.
    assert "of them trainings" in done.output
    trainings = int(done.output.split(" stages are left, ")[1].split()[0])
    assert trainings == 2 * (1 + 2 + 2 + 4) + 3
    assert not (tmp_path / "s").exists()
    refused(CliRunner().invoke(main, ["study", "akbar", "--calibrate"]), "option.conflict")
