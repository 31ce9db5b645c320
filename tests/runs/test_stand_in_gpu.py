"""What a GPU would do, on a device that is not the CPU though the CPU calculates for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hyfree_ray import generators
from hyfree_ray.evaluation.scores import read_results
from tests.generators.plans import tiny_unet
from tests.hospitals import write_data
from tests.stand_in_gpu import MEMORY_MIB, PEAK_MIB, stand_in_gpu

SHOWN = 16 * 8
PAUSES = 16 * 4


def test_the_stand_in_refuses_what_a_gpu_refuses() -> None:
    with stand_in_gpu():
        here, away = torch.ones(3, 2), torch.ones(3, 2, device="cuda")
        for mix in (
            lambda: here + away,
            lambda: torch.cat([away, here]),
            lambda: here[away[:, 0] > 0],
            lambda: here.__setitem__(away[:, 0] > 0, 1.0),
            lambda: away.__setitem__(torch.tensor([0, 1]), torch.ones(2, 2)),
            lambda: away.index_put_((torch.tensor([0]),), torch.ones(1, 2)),
            lambda: torch.nn.Linear(2, 2)(away),
        ):
            with pytest.raises(RuntimeError, match="some on the CPU"):
                mix()
        with pytest.raises(TypeError, match="to numpy"):
            away.numpy()
        with pytest.raises(RuntimeError, match="a generator on cpu for cuda"):
            torch.randn(2, generator=torch.Generator(), device="cuda")


def test_the_stand_in_takes_what_a_gpu_takes() -> None:
    with stand_in_gpu():
        away = torch.arange(6.0, device="cuda:0").reshape(3, 2)
        assert (away.is_cuda, away.device.type) == (True, "cuda")
        assert (away * torch.tensor(2.0)).sum().item() == 30
        assert away[[0, 2]].cpu().tolist() == [[0, 1], [4, 5]]
        away[torch.tensor([1])] = 0
        away[:, 0].mul_(3)
        assert away.cpu().numpy().tolist() == [[0, 1], [0, 0], [12, 5]]
        layer = torch.nn.Linear(2, 2).to("cuda")
        layer(away).sum().backward()
        assert layer.weight.grad.is_cuda
        with torch.autocast("cuda", torch.bfloat16):
            assert layer(away).dtype == torch.bfloat16


class Killed(Exception):
    pass


def kill(images: int, of: int) -> None:
    if images >= PAUSES:
        raise Killed


@pytest.mark.parametrize(("backend", "precision"), [("flow", "fp32"), ("stylegan2", "bf16")])
def test_a_generator_is_trained_killed_resumed_and_sampled_on_a_gpu_as_on_the_cpu(
    tmp_path: Path, backend: str, precision: str
) -> None:
    random = np.random.default_rng(0)
    images_NCHW = random.uniform(-1, 1, (21, 2, 21, 19)).astype(np.float32)

    def train(folder: Path, device: str, saved=lambda images, of: None) -> list[int]:
        told: list[int] = []
        generators.train(
            backend,
            config=generators.GENERATORS[backend].config(max_channels=8),
            unet=tiny_unet(2, (21, 19)),
            images_NCHW=images_NCHW,
            images_shown=SHOWN,
            seed=7,
            workdir=folder,
            device=device,
            precision=precision,
            mirror=True,
            snapshots=2,
            progress=lambda images, of, losses: told.append(images),
            saved=saved,
        )
        return told

    def draw(device: str) -> np.ndarray:
        last = max((tmp_path / device / "snapshots").iterdir()).name
        settings = {"device": device, "precision": precision}
        parts = generators.sample(tmp_path / device, last, start=3, count=5, seed=1, **settings)
        return np.concatenate(list(parts))

    train(tmp_path / "cpu", "cpu")
    with stand_in_gpu():
        with pytest.raises(Killed):
            train(tmp_path / "cuda", "cuda", kill)
        assert min(train(tmp_path / "cuda", "cuda")) > PAUSES
        drawn = draw("cuda")
    np.testing.assert_allclose(drawn, draw("cpu"), atol=1e-3 if precision == "fp32" else 0.1)


@pytest.mark.slow
def test_a_whole_run_on_a_gpu_ends_with_its_table_and_tells_what_memory_it_took(
    tmp_path: Path,
) -> None:
    write_data(tmp_path / "data", ["alpha", "gamma"])
    options = ("--ray", "off", "--device", "cuda", "--budget", "smoke", "--generator", "flow")
    # What so short a training releases depends on the machine; what runs on a GPU must not.
    options += ("--set", "gate.min_copy_recall=0", "--set", "gate.max_attack_auc=1")
    command = ("simulate", "--data", tmp_path / "data", "--store", tmp_path / "store", *options)
    done = subprocess.run(
        [sys.executable, "-m", "tests.stand_in_gpu", *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "store" / "runs").iterdir()
    regimes = {row.regime for row in read_results(folder / "results.csv")}
    assert {"local", "local2x", "general", "finetuned", "personalised", "real-all"} <= regimes
    on_it = [
        record
        for file in (tmp_path / "store").glob("**/record.json")
        if (record := json.loads(file.read_text())).get("device_memory_mib")
    ]
    assert {(r["device_memory_mib"], r["device_total_mib"]) for r in on_it} == {
        (PEAK_MIB, MEMORY_MIB)
    }
    assert {"train_generator", "synthesise", "train_segmenter", "score"} <= {
        r["stage"] for r in on_it
    }
