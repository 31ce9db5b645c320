"""What a set of images teaches a small network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hyfree_ray.evaluation.teaching import Labelled, taught_dice
from tests.evaluation import planted

STEPS = 30


def _labelled(of: planted.Planted) -> Labelled:
    return Labelled(
        images_NCHW=of.images_NCHW,
        labels_NHW=of.labels_NHW,
        labels={"background": 0, "body": [1, 2]},
    )


@pytest.fixture(scope="module")
def real() -> planted.Planted:
    return planted.real(16, seed=9)


def _dice(teacher: Labelled, real: planted.Planted) -> float:
    dice = taught_dice(teacher, _labelled(real), real.patients_N, seed=0, steps=STEPS)
    assert dice is not None
    return dice


def test_images_with_right_labels_teach_and_noise_does_not(real: planted.Planted) -> None:
    sets = planted.flawed(24)
    assert _dice(_labelled(sets["real"]), real) > 0.8
    assert _dice(_labelled(sets["noise"]), real) < 0.6


def test_pixels_that_nobody_annotated_count_nowhere(real: planted.Planted) -> None:
    teacher = _labelled(planted.real(24, seed=2))
    labels = {"background": 0, "body": [1, 2], "ignore": 3}
    half = real.labels_NHW.copy()
    half[:, :, 24:] = 3
    found = [
        taught_dice(
            replace(teacher, labels=labels),
            Labelled(images_NCHW=real.images_NCHW, labels_NHW=there, labels=labels),
            real.patients_N,
            seed=0,
            steps=STEPS,
        )
        for there in (half, np.where(half == 3, 0, half))
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] > found[1]


def test_without_any_structure_there_is_no_dice(real: planted.Planted) -> None:
    empty = Labelled(
        images_NCHW=real.images_NCHW,
        labels_NHW=np.zeros_like(real.labels_NHW),
        labels={"background": 0, "body": 1},
    )
    assert taught_dice(empty, empty, real.patients_N, seed=0, steps=1) is None
