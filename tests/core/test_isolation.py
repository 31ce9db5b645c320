"""No process of ours imports what lies in the folder that it was started in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyfree_ray.border.release import ReleaseMetadata
from hyfree_ray.border.release_guard import SubmittedRelease, check_releases
from hyfree_ray.core import isolation
from hyfree_ray.runners.child import call_in_child
from tests.release_files import EXPERIMENT, ROUND, SITE, write

NAMES = ("json", "pyarrow", "torch", "numpy", "click", "pickle", "multiprocessing", "hyfree_ray")
"""Of libraries that checking needs, and of the package itself."""


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of folders named like libraries; whichever is imported leaves a file."""
    here = tmp_path / "handed-in"
    here.mkdir()
    for name in NAMES:
        write(here / name)
        sprung = here / f"{name}.sprung"
        code = f"import os\nos.close(os.open({str(sprung)!r}, os.O_CREAT))\nraise ImportError\n"
        (here / name / "__init__.py").write_text(code)
    monkeypatch.chdir(here)
    return here


def sprung(traps: Path) -> list[str]:
    return sorted(path.name for path in traps.glob("*.sprung"))


def test_the_child_that_checks_releases_imports_nothing_from_among_them(traps: Path) -> None:
    """Case 101: a release in a folder `json` is data, wherever the check is started."""
    known = {"site": SITE, "experiment": EXPERIMENT, "round_number": ROUND}
    found = check_releases([SubmittedRelease(folder=traps / name, **known) for name in NAMES])
    assert all(isinstance(one, ReleaseMetadata) for one in found)
    assert sprung(traps) == []


def test_a_child_with_a_call_imports_nothing_from_there(traps: Path) -> None:
    assert call_in_child(os.getcwd, title="here") == str(traps)
    assert sprung(traps) == []


def test_the_command_line_imports_nothing_from_there_whatever_the_path_says(traps: Path) -> None:
    """Case 101: an empty entry of PYTHONPATH is the working directory, too."""
    done = subprocess.run(
        [sys.executable, "-c", _AS_INSTALLED, "release", "check", *map(str, traps.glob("*"))],
        env={**os.environ, "PYTHONPATH": f"{isolation.PACKAGES}::.:{traps / 'json' / '..'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("good: 5 images") == len(NAMES), done.stderr
    assert sprung(traps) == []


_AS_INSTALLED = """\
import sys
if not getattr(sys.flags, "safe_path", False):
    sys.path.pop(0)
from hyfree_ray.cli import main
main()
"""
"""What the script `hyfree-ray` does: the folder of the script stands first, not the working one."""


def test_what_libraries_start_does_not_look_there_either(traps: Path) -> None:
    """Case 101: as multiprocessing starts workers: by `-c`, with the environment."""
    code = (
        "import sys\n"
        "sys.flags.safe_path or sys.path.pop(0)\n"
        "from hyfree_ray.core.isolation import keep_children_out, leave_working_directory\n"
        "leave_working_directory()\n"
        "keep_children_out()\n"
        "import subprocess\n"
        "subprocess.run([sys.executable, '-c', 'import json, multiprocessing'], check=True)\n"
    )
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 has no PYTHONSAFEPATH: docs/BORDER.md says so")
    env = {**os.environ, "PYTHONPATH": f"{isolation.PACKAGES}::.:{traps}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert sprung(traps) == []


def test_a_checkout_stays_on_the_path_where_it_is_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(isolation.PACKAGES)
    monkeypatch.syspath_prepend(isolation.PACKAGES)
    assert str(isolation.PACKAGES) in isolation.import_path()
