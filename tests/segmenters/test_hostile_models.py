"""A model from elsewhere is tried in a child with limits; nothing of it reaches this process."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyfree_ray.core.parcels import Parcel
from hyfree_ray.segmenters.nnunet import trial
from hyfree_ray.segmenters.nnunet.architecture import U_NET
from hyfree_ray.segmenters.nnunet.model import Model, save_network
from hyfree_ray.segmenters.nnunet.trial import try_model, try_parcel
from tests.plans import PLANS, changed
from tests.refusals import refuses

DATASET = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".mha",
}
NETWORK = "configurations/2d/architecture/arch_kwargs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = U_NET.build(PLANS, 1, 2, deep_supervision=False)
    details = {"inference_allowed_mirroring_axes": [0, 1]}
    save_network(tmp_path / "model", network, PLANS, DATASET, details)
    return tmp_path / "model"


def test_a_good_model_passes_and_one_that_exceeds_its_limits_does_not(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 103."""
    try_model(model, None)
    hostile = """
import hyfree_ray.segmenters.nnunet.trial as module
class Model:
    def __init__(self, *_):
        kept = [bytearray(1 << 28) for _ in range(64)]
module.Model = Model
"""
    monkeypatch.setattr(trial, "_PROGRAM", hostile + trial._PROGRAM)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refuses("model.trial-failed", "memory"):
        try_model(model, None)
    endless = hostile.replace("kept = [bytearray(1 << 28) for _ in range(64)]", "while True: pass")
    monkeypatch.setattr(trial, "_PROGRAM", endless + "module.main()")
    begun = time.monotonic()
    with refuses("model.trial-failed", "longer"):
        try_model(model, None, seconds=1)
    assert time.monotonic() - begun < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_what_the_child_finds_is_said_with_the_models_own_code(model: Path) -> None:
    """Case 103."""
    (model / "weights.safetensors").write_bytes(b"")
    with refuses("model.bad-weights"):
        try_model(model, None)


def test_the_files_of_a_parcel_are_tried_and_one_without_a_file_is_no_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 103."""
    files = {f"model/{path.name}": path.read_bytes() for path in model.iterdir()}
    general = Parcel(sender="pool", stage="train_general", key="a" * 64, files=files, result={})
    tried: list[dict[str, bytes]] = []

    def note(folder: Path, segmenter: str | None) -> None:
        tried.append({f"model/{path.name}": path.read_bytes() for path in folder.iterdir()})

    monkeypatch.setattr(trial, "try_model", note)
    try_parcel(general, None)
    assert tried == [files]
    del files["model/model.json"]
    with refuses("model.not-found", "model.json"):
        try_parcel(general, None)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        json.dumps(changed("configurations/2d/spacing", [float("nan")] * 2)),
        json.dumps({**PLANS, "padding": "x" * (1 << 20)}),
        json.dumps(changed(f"{NETWORK}/n_conv_per_stage", [10**7, 2])),
        json.dumps(changed("configurations/2d/inherits_from", "2d")),
    ],
    ids=["deep", "list", "nan", "large", "convolutions", "inherits"],
)
def test_a_hostile_plan_is_refused_before_a_network_is_built(model: Path, text: str) -> None:
    """Case 102."""
    (model / "plans.json").write_text(text)
    with refuses("model.plan-refused"):
        Model(model, "cpu")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.json", {**DATASET, "channel_names": 7}),
        ("model.json", {"inference_allowed_mirroring_axes": list(range(20))}),
        ("model.json", {"inference_allowed_mirroring_axes": "all"}),
    ],
)
def test_hostile_details_of_a_model_are_refused(model: Path, name: str, content: Any) -> None:
    """Case 102: a million turns of each patch."""
    (model / name).write_text(json.dumps(content))
    with refuses("model.plan-refused"):
        Model(model, "cpu")


def test_a_plan_of_a_tiny_spacing_allocates_nothing_for_an_image(model: Path) -> None:
    """Case 102."""
    (model / "plans.json").write_text(
        json.dumps(changed("configurations/2d/spacing", [1e-3, 1e-3]))
    )
    network = Model(model, "cpu")
    with refuses("model.too-fine"):
        network.segment(np.zeros((1, 1, 64, 48), np.float32), (999.0, 1.0, 1.0))
