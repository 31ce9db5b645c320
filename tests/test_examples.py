"""The notebooks in `examples/` run from their first cell to their last."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

_RUN_CELLS = """
import json, sys
names = {}
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""


def test_notebooks_are_kept_without_outputs() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs"), path.name


@pytest.mark.slow
def test_the_first_tour_runs(whole: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "hyfree-store")  # it has the run already
    done = subprocess.run(
        [sys.executable, "-c", _RUN_CELLS, str(EXAMPLES / "first-tour.ipynb")],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {"answer.png", "release.png"} <= {file.name for file in tmp_path.iterdir()}
    assert "no verdict" in done.stdout
