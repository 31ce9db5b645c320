"""How far planted sets of images are from real ones, by the measure that snapshots and releases
are judged by."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.border.privacy_card import coarse
from hyfree_ray.border.quality_card import QualityCard, QualityGate, significant, violations
from hyfree_ray.evaluation.image_statistics import (
    channel_correlations,
    gradients,
    patch_distance,
    spectrum,
    statistics_of,
    wasserstein,
)
from hyfree_ray.evaluation.label_statistics import label_statistics
from hyfree_ray.evaluation.realism import RealImages, Realism
from hyfree_ray.evaluation.two_sample import two_sample_accuracy
from tests.evaluation import planted


@pytest.fixture(scope="module")
def judged() -> dict[str, Realism]:
    """The planted sets, as the measure sees them; sets as plain as these are told in 25 steps."""
    there = planted.real(56, seed=1)
    real = RealImages(
        images_NCHW=there.images_NCHW,
        labels_NHW=there.labels_NHW,
        patients_N=there.patients_N,
        labels=planted.LABELS,
        seed=0,
        folds=2,
        steps=25,
    )
    return {
        name: real.compare(one.images_NCHW, one.labels_NHW)
        for name, one in planted.flawed(40).items()
    }


def test_planted_sets_are_ranked_as_a_person_would(judged: dict[str, Realism]) -> None:
    far = {name: one.times_floor for name, one in judged.items()}
    assert min(far, key=far.__getitem__) == "real"
    partly = {"mode dropped", "lesions removed", "channel shuffled", "blurred"}
    assert far["real"] < min(far[name] for name in partly)
    assert max(far[name] for name in partly) < far["noise"]
    assert far["noise, labelled well"] < far["noise"]
    assert far["real"] < 2 < far["noise, labelled well"]


def test_good_labels_do_not_hide_noise(judged: dict[str, Realism]) -> None:
    found = judged["noise, labelled well"]
    assert found.labels_times_floor < 2
    assert found.accuracy > 0.95
    assert found.images_times_floor > 4


def test_the_gate_closes_for_noise_however_it_is_labelled_and_for_no_real_images(
    judged: dict[str, Realism],
) -> None:
    shut = {
        name
        for name, found in judged.items()
        if violations(
            QualityCard(
                measurable=True,
                accuracy=coarse(found.accuracy),
                images_times_floor=significant(found.images_times_floor),
            ),
            QualityGate(),
        )
    }
    assert {"noise", "noise, labelled well"} <= shut
    assert not shut & {"real", "mode dropped"}


def test_new_real_images_are_not_told_from_real_ones(judged: dict[str, Realism]) -> None:
    found = judged["real"]
    assert abs(found.accuracy - 0.5) < 0.15
    assert found.images_times_floor < 2
    assert found.labels_times_floor < 2


def test_lesions_that_are_missing_show_in_the_labels_alone(judged: dict[str, Realism]) -> None:
    found, real = judged["lesions removed"], judged["real"]
    assert found.images == real.images
    assert found.labels_times_floor > 3


def test_a_channel_of_other_patients_shows_in_the_correlation_of_channels(
    judged: dict[str, Realism],
) -> None:
    found, real = judged["channel shuffled"].images, judged["real"].images
    assert found["channels"].times_floor > 2 * real["channels"].times_floor
    assert found["spectrum"] == real["spectrum"]


def test_blurred_images_lack_fine_detail(judged: dict[str, Realism]) -> None:
    found = judged["blurred"].images
    assert found["spectrum"].times_floor > 3
    assert found["gradients"].times_floor > 2


def test_the_measure_is_the_same_twice() -> None:
    there = planted.real(24, seed=1)
    fresh = planted.real(20, seed=2)
    accuracies = [
        two_sample_accuracy(
            there.images_NCHW, there.patients_N, fresh.images_NCHW, seed=5, folds=2, steps=5
        )
        for _ in range(2)
    ]
    assert accuracies[0] == accuracies[1]
    assert patch_distance(there.images_NCHW, fresh.images_NCHW) == patch_distance(
        there.images_NCHW, fresh.images_NCHW
    )


def test_images_of_a_patient_are_never_on_both_sides_of_the_classifier() -> None:
    rng = np.random.default_rng(0)
    # Each patient's images are near copies of one another: who sees one has seen the other.
    patterns = rng.normal(size=(60, 1, 12, 16))
    images_NCHW = np.repeat(patterns, 2, axis=0) + 0.01 * rng.normal(size=(120, 1, 12, 16))
    patients_N = np.repeat(np.arange(60), 2)
    real_N = patients_N < 30
    images_NCHW = np.clip(images_NCHW / 3, -1, 1).astype(np.float32)
    accuracy = two_sample_accuracy(
        images_NCHW[real_N],
        patients_N[real_N],
        images_NCHW[~real_N],
        groups_M=patients_N[~real_N],
        seed=1,
        folds=2,
        steps=60,
    )
    assert abs(accuracy - 0.5) < 0.2


@pytest.mark.parametrize("statistic", [spectrum, gradients, channel_correlations])
def test_statistics_of_flat_images_are_finite(statistic: object) -> None:
    flat = np.full((3, 2, 10, 14), -1.0, np.float32)
    found = statistic(flat)  # type: ignore[operator]
    assert np.isfinite(found).all()


def test_one_channel_correlates_with_no_other() -> None:
    assert "channels" not in statistics_of(1)
    assert "channels" in statistics_of(2)


def test_sets_of_unlike_size_and_equal_distribution_are_near() -> None:
    rng = np.random.default_rng(0)
    assert wasserstein(rng.normal(size=(4000, 3)), rng.normal(size=(900, 3))) < 0.1


def test_label_statistics_count_pieces_and_their_size() -> None:
    labels = np.zeros((2, 10, 20), np.uint8)
    labels[0, 1:3, 1:3] = 1
    labels[0, 6:8, 10:14] = 1
    found = label_statistics(labels, {"background": 0, "lesion": 1, "tumour": [1, 2]})
    assert found["lesion"] == found["tumour"]
    assert found["lesion"].share == 12 / 400
    assert found["lesion"].presence == 0.5
    assert found["lesion"].components == 2
    assert found["lesion"].size == 6 / 200


def test_a_structure_that_is_nowhere_has_statistics_of_nothing() -> None:
    found = label_statistics(np.zeros((2, 4, 6), np.uint8), {"background": 0, "lesion": 1})
    assert found["lesion"].share == found["lesion"].size == found["lesion"].components == 0
