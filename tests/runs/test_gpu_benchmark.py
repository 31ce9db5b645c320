"""The script for a GPU, on a device that is none and on the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyfree_ray.generators import GENERATORS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
ON_STAND_IN = """
import argparse, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from tests.stand_in_gpu import stand_in_gpu
import gpu
arguments = argparse.Namespace(out=Path(sys.argv[2]), device="cuda", tiny=True)
with stand_in_gpu():
    gpu.run_stage("correctness", arguments, 1200)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_table_names_stages_that_were_not_run(tmp_path: Path) -> None:
    machine = {"device": "some", "cuda": "12", "versions": {"torch": "2"}, "tiny": False}
    findings = {"flow fp32": {"apart": 0.25, "ok": False}}
    content = json.dumps({"machine": machine, "findings": findings})
    (tmp_path / "correctness.json").write_text(content)
    shown = run("--table", tmp_path)
    assert shown.returncode == 0
    assert "| correctness | flow fp32 | apart 0.25, ok False |" in shown.stdout
    assert "| speed | | not run |" in shown.stdout


def test_a_stage_that_there_is_not_is_refused() -> None:
    refused = run("--stages", "correctness,sped")
    assert refused.returncode == 2
    assert "sped" in refused.stderr


@pytest.mark.slow
def test_every_stage_leaves_its_findings_without_a_gpu(tmp_path: Path) -> None:
    stages = "speed,epoch,memory"
    done = run("--device", "cpu", "--tiny", "--minutes", "1", "--stages", stages, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in stages.split(","):
        assert json.loads((tmp_path / f"{name}.json").read_text())["findings"]


@pytest.mark.slow
def test_on_the_stand_in_everything_is_as_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_STAND_IN, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads((tmp_path / "correctness.json").read_text())["findings"]
    assert len(findings) == 4 * len(GENERATORS.built_in()) + 1
    assert all(found["ok"] for found in findings.values()), findings
