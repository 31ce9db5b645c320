"""What choosing a snapshot costs is measured whole, and said as a share of the training's time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyfree_ray.observer import Observer
from hyfree_ray.stage import Context
from hyfree_ray.stages.quality import choose_snapshot
from hyfree_ray.store import RECORD
from tests.generators.test_training import _images, _train

LOADING, EMBEDDING = 0.4, 0.2
"""Seconds that the test's embedder takes, and takes for each set of images."""


def _trained(folder: Path) -> float:
    """Train a generator of two snapshots. Returns its seconds."""
    begun = time.monotonic()
    _train("flow", folder, images_shown=320, snapshots=2)
    names = sorted(file.name for file in (folder / "snapshots").iterdir())
    seconds = time.monotonic() - begun
    (folder / RECORD).write_text(json.dumps({"seconds": seconds, "result": {"snapshots": names}}))
    return seconds


def _prepared(folder: Path) -> Path:
    """A view with 24 held-out images of 12 patients."""
    folder.mkdir()
    images_NCHW = _images(60)
    np.savez(
        folder / "view.npz",
        images=images_NCHW,
        patients=np.arange(60) // 2,
        training=np.arange(60) < 36,
        low=np.zeros(2),
        high=np.ones(2),
        spacing=np.ones(2),
    )
    return folder


def _slow_embedder(*_arguments: Any, **_settings: Any) -> Any:
    time.sleep(LOADING)

    def embed(images_NCHW: np.ndarray) -> np.ndarray:
        time.sleep(EMBEDDING)
        flat_NF = images_NCHW.reshape(len(images_NCHW), -1)[:, ::40] + 1e-3
        features_NF: np.ndarray = flat_NF / np.linalg.norm(flat_NF, axis=1, keepdims=True)
        return features_NF

    return embed


def test_the_reported_cost_holds_loading_embedding_and_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyfree_ray.privacy.embedders.load_embedder", _slow_embedder)
    training = _trained(tmp_path / "generator")
    (tmp_path / "out").mkdir()
    begun = time.monotonic()
    result = choose_snapshot(
        Context(out=tmp_path / "out", owner="a"),
        generator=tmp_path / "generator",
        segmenter=tmp_path / "segmenter",
        prepared=_prepared(tmp_path / "prepared"),
        backend="flow",
        images_shown=320,
        embedder="slow",
        precision="bf16",
        seed=3,
    )
    whole = time.monotonic() - begun
    assert result["training_seconds"] == pytest.approx(training, abs=0.01)
    # The real images once, the samples of two snapshots.
    assert LOADING + 3 * EMBEDDING < result["seconds"] <= whole + 0.01

    said: list[str] = []
    observer: Any = SimpleNamespace(progress=SimpleNamespace(tell=said.append))
    record = {"stage": "choose_snapshot", "owner": "a", "result": result}
    Observer._say_what_was_derived(observer, {"record": record})
    share = result["seconds"] / result["training_seconds"]
    assert said[0].endswith(f"({share:.1%} of the training's time)")
