"""What is installed from a wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIND_AND_RUN = (
    "import sys, hyfree_ray; assert hyfree_ray.__file__.startswith(sys.argv.pop(1)); "
    "from hyfree_ray.cli import main; main()"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a wheel of the project was installed into."""
    built, target = (tmp_path_factory.mktemp(name) for name in ("built", "target"))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    pip = [sys.executable, "-m", "pip"]
    source = ["--no-build-isolation", "--wheel-dir", str(built), str(ROOT)]
    subprocess.run([*pip, "wheel", *quiet, *source], check=True)
    (wheel,) = built.glob("hyfree_ray-*.whl")
    subprocess.run([*pip, "install", *quiet, "--target", str(target), str(wheel)], check=True)
    return target


@pytest.mark.slow
def test_a_simulation_of_an_installed_wheel_ends_with_its_report(
    installed: Path, tmp_path: Path
) -> None:
    for command in (
        ("simulate", "--sites", "2", "--budget", "smoke", "--settings", "", "--ray", "off"),
        ("report",),
        ("runs", "ls"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", FIND_AND_RUN, str(installed), *command, "--store", "store"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "store" / "reports").rglob("*.html"))
