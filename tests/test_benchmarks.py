"""The generators' benchmarks run, from a checkout too, and end with the line that scripts read."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.generators.flow.train import BACKEND as FLOW
from hyfree_ray.generators.stylegan2.train import BACKEND as STYLEGAN2
from tests.generators.plans import tiny_flow, tiny_stylegan2

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: str, cwd: Path) -> list[str]:
    """The lines of a benchmark in an interpreter that has the libraries, but not the package."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = sysconfig.get_path("purelib")
    script, *rest = arguments
    done = subprocess.run(  # -S: installed by a link, the package would be found
        [sys.executable, "-S", str(BENCHMARKS / script), *rest],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_generators_benchmark_ends_with_its_ratios(tmp_path: Path) -> None:
    lines = run("generator.py", "--quick", "--size", "24", "20", "--width", "8", cwd=tmp_path)
    number = r"(\d+\.\d\d)"
    last = re.fullmatch(
        rf"ratio_same={number} ratio_default={number} ratio_fp32={number} "
        rf"utilisation={number} sampling_ratio={number}",
        lines[-1],
    )
    assert last is not None, lines[-1]
    ratio = {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", lines[-1])}
    # In batches over one by one, both ours in one precision; the direct form's is said beside it.
    (sampling,) = (line for line in lines if line.startswith("stylegan2 sampling"))
    together, alone, direct = (float(rate) for rate in re.findall(r"(\d+) (?:in b|one)", sampling))
    assert ratio["sampling_ratio"] == pytest.approx(together / alone, rel=0.02)
    assert f"({ratio['sampling_ratio']:.2f}x); {direct:.0f} one by one in the direct" in sampling
    assert f"{ratio['ratio_same']:.2f}x" in "".join(line for line in lines if "ours bf16" in line)
    difference = next(line for line in lines if line.startswith("largest difference"))
    assert float(difference.split()[-1]) < 1e-5


@pytest.mark.parametrize(("backend", "plan"), [(STYLEGAN2, tiny_stylegan2()), (FLOW, tiny_flow())])
def test_what_was_to_be_compiled_and_was_not_is_said(
    backend, plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import generator

    for compiled in (True, False):
        generator._accelerated("tiny", backend, plan, "cpu", 1, compiled)
    wanted, eager = capsys.readouterr().out.splitlines()
    assert wanted.startswith("  tiny, eager, for compiling FAILED")
    assert eager.startswith("  tiny, eager: ")
    assert re.search(r": \d+\.\d\d s/kimg, \d+ images/s sampled$", eager)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The flow's benchmark with a narrow network of few non-square images."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import flow

    for name, value in {"PATCH": (16, 24), "WIDTH": 8, "TRAINING_IMAGES": 24, "BATCH": 4}.items():
        monkeypatch.setattr(flow, name, value)
    return flow


SHORT = argparse.Namespace(kimg=0.16, samples=24, paths=3, precision="fp32", seed=0)


def test_the_flows_solvers_are_compared_on_the_same_noise(
    flow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    flow.compare_solvers(SHORT, flow.Data(1, held_out=24))
    header, *rows, real, nearer, last = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["solver", "evaluations"]
    told = {row[:10].strip(): row[10:].split() for row in rows}
    assert {name: int(row[0]) for name, row in told.items()} == {
        **{"ours": 10, "Euler, 10": 10, "Euler, 25": 25}
    }
    errors = {name: float(row[1]) for name, row in told.items()}
    assert errors["Euler, 10"] > errors["ours"] > 0  # at equal cost
    assert real.startswith("real")
    assert nearer.endswith("of 3 images")
    ratio = re.fullmatch(r"path_ratio=(\S+) frechet_ratio=\d+\.\d\d kid_difference=\S+", last)
    assert ratio is not None, last
    assert float(ratio[1]) > 0


def test_each_setting_of_the_flows_training_takes_hold_and_is_taken_back(
    flow: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = flow.flow.FlowLearner
    before = learner.times
    flow.compare_settings(SHORT, flow.Data(1, held_out=24))
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row[21:] for row in rows] == list(flow.SETTINGS)
    assert len({row[:21] for row in rows}) == len(flow.SETTINGS)
    assert learner.times == before


def test_spectra_tell_noise_and_blur_from_the_images_and_sheets_show_every_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import images
    from PIL import Image

    random = np.random.default_rng(0)
    real = np.cumsum(random.normal(size=(200, 3, 20, 28)), 3) / 10
    blurred = (real + np.roll(real, 1, 3) + np.roll(real, 1, 2)) / 3
    noisy = real + random.normal(size=real.shape)
    target = images.spectra(real[:100])
    floor, *changed = (
        np.abs(images.spectra(other) - target).mean() for other in (real[100:], blurred, noisy)
    )
    assert min(changed) > 1.5 * floor
    images.draw_sheet(real, noisy[:12], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert (width, height) == (2 * 2 * 3 * 28 + 12, 2 * 12 * 20)
