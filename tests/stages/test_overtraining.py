"""The stage that makes a generator copy on purpose, so that the filter can be tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.core.stage import Context
from hyfree_ray.generators.view import RawSlice, write_view
from hyfree_ray.segmenters.unet_plan import UNetPlan
from hyfree_ray.stages.training import COPIED_IMAGES, COPIES, COPY_SAMPLES, overtrain_generator
from tests.generators.plans import tiny_unet


def prepare(folder: Path, training: int) -> None:
    """A view of some training images and as many held-out ones."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    slices = (
        RawSlice(
            image_CHW=rng.normal(size=(1, 24, 20)).astype(np.float32),
            spacing=(1.0, 1.0),
            patient=number,
            training=number % 2 == 1,
        )
        for number in range(2 * training)
    )
    write_view(folder / "view.npz", slices, patch=(24, 20), target_spacing=(1, 1), site="site-1")


@pytest.mark.parametrize("training", [5, 20])
def test_a_few_training_images_are_learned_and_the_samples_kept(
    training: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNetPlan, "read", lambda folder: tiny_unet())
    prepare(tmp_path / "prepared", training)
    (tmp_path / "out").mkdir()
    found = overtrain_generator(
        Context(out=tmp_path / "out", owner="site-1"),
        prepared=tmp_path / "prepared",
        generator={
            "name": "flow",
            "pairing": "labelled",
            "mask_encoding": "one-hot",
            "config": {"max_channels": 8, "evaluations": 2},
        },
        images_shown=16,
        precision="fp32",
        seed=3,
    )
    assert len(set(found["copied"])) == min(COPIED_IMAGES, training)
    assert max(found["copied"]) < training
    assert np.load(tmp_path / "out" / COPIES).shape == (COPY_SAMPLES, 1, 24, 20)
