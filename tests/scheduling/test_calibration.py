"""How fast this machine trains, by trying it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.scheduling.calibration import calibrate
from tests.refusals import refused

CALIBRATES = """
import sys
from pathlib import Path
from tests.toys import toy_simulation
from tests.scheduling.test_calibration import calibrate

if __name__ == "__main__":
    simulation = toy_simulation(2)
    pace = calibrate(simulation.sites["site-2"], simulation.experiment, "cpu", training_s=0.3)
    assert "torch" not in sys.modules
    print(*(f"{stage}={1e3 * seconds:.3f}" for stage, seconds in sorted(pace.items())))
"""


@pytest.mark.slow
def test_trainings_are_timed_in_a_process_of_their_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CALIBRATES)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pace = dict(part.split("=") for part in done.stdout.split())
    assert list(pace) == ["train_generator", "train_segmenter"]
    assert all(0.01 < float(milliseconds) < 60_000 for milliseconds in pace.values())


def test_a_machine_that_is_too_slow_to_say_anything_says_nothing(phantom_simulation):
    simulation = phantom_simulation(2)
    site = simulation.sites["site-1"]
    assert calibrate(site, simulation.experiment, "cpu", longest_s=0.2) == {}


def test_a_calibration_is_for_a_plan(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["simulate", "--calibrate", "--store", str(tmp_path / "s")])
    refused(result, "option.conflict", "--calibrate", "--dry-run")
