"""The general model through Ray Train."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.execution import execute
from hyfree_ray.core.records import StageRecord
from hyfree_ray.runners.ray_train import RayTrainLaunch
from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess
from hyfree_ray.stages.training import train_general


@pytest.fixture
def pooled(phantom_folder: Path, tmp_path: Path) -> Artifact:
    from hyfree_ray.segmenters.plan_caps import PlanCaps
    from tests.segmenters.test_nnunet import cases_of

    torch.set_num_threads(1)
    caps = PlanCaps(working_size=32, base_features=4, max_features=16, batch_size=4)
    cases = cases_of(phantom_folder)[:30]
    dataset = json.loads((phantom_folder / "dataset.json").read_text())
    folder = tmp_path / "pooled"
    plan_and_preprocess(folder, cases, dataset, caps, validation=[c.name for c in cases[-8:]])
    return Artifact(stage="pool_releases", key="p" * 64, path=folder)


def general(pooled: Artifact, folder: Path, workers: int, launch: Any) -> StageRecord:
    call = train_general.call(
        prepared=pooled,
        segmenter="nnunet",
        epochs=2,
        iterations=3,
        validation_iterations=1,
        optimiser="sgd",
        precision="fp32",
        workers=workers,
        seed=4,
    )
    return execute(train_general.module, call, folder, owner="pool", device="cpu", launch=launch)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_one_ray_train_worker_gives_the_network_of_this_process(
    pooled: Artifact, tmp_path: Path
) -> None:
    here = general(pooled, tmp_path / "here", 1, None)
    there = general(pooled, tmp_path / "there", 1, RayTrainLaunch("cpu", {}))
    assert here.result == there.result
    one = load_file(tmp_path / "here" / "model" / "weights.safetensors")
    other = load_file(tmp_path / "there" / "model" / "weights.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def crash_once(*, out: str, device: str, report: Any) -> None:
    """A worker that dies before its first report and works when it is started again."""
    assert device == "cpu"
    marker = Path(out) / "crashed"
    if not marker.exists():
        marker.touch()
        os._exit(1)
    report(1)
    (Path(out) / "done").touch()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_train_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """Case 4."""
    RayTrainLaunch("cpu", {})(crash_once, {"out": str(tmp_path)}, 1, tmp_path)
    assert (tmp_path / "done").exists()


@pytest.mark.usefixtures("cluster")
def test_two_ray_train_workers_share_the_batch(pooled: Artifact, tmp_path: Path) -> None:
    record = general(pooled, tmp_path / "two", 2, RayTrainLaunch("cpu", {}))
    assert record.result["workers"] == 2
    assert record.result["iterations"] == 6
    assert (tmp_path / "two" / "model" / "weights.safetensors").exists()
    one = general(pooled, tmp_path / "one", 1, None)
    assert one.key != record.key
