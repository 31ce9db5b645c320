"""The memorisation filter on images whose copies are known."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hyfree_ray.border.privacy_card import UNION
from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.privacy.detectors import Correlation, Detector, Features, Measure, Structure
from hyfree_ray.privacy.memorization import MemorisationFilter, shared_thresholds
from hyfree_ray.privacy.sampling import restore
from hyfree_ray.privacy.self_test import ALTERATIONS, self_test
from tests.border.test_label_shift import read
from tests.conftest import REAL_DATA

SIZE = (40, 28)

PUBLISHED = ("blended 80:20", "rotated by 5 degrees", "cropped by 10 %")
"""Alterations for which no recall is promised: what it is, is on the card."""


def images(count: int, seed: int, channels: int = 1) -> np.ndarray:
    """Smooth random images: near shifts of each other are alike, different ones are not."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, channels, *SIZE))
    smooth = gaussian_filter(noise, (0, 0, 4, 4)) * 5
    return np.clip(smooth, -1, 1).astype(np.float32)


def embed(images_NCHW: np.ndarray) -> np.ndarray:
    flat = images_NCHW.reshape(len(images_NCHW), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def measures() -> list[Measure]:
    return [Features(embed=embed), Correlation(), Structure()]


@functools.cache
def fitted(
    count: int = 60, per_patient: int = 3, channels: int = 1
) -> tuple[MemorisationFilter, np.ndarray]:
    real = images(count, 0, channels)
    patients = np.arange(count) // per_patient
    return MemorisationFilter.calibrate(real, patients, measures(), percentile=5), real


def altered(real: np.ndarray, name: str, seed: int = 3) -> np.ndarray:
    return np.clip(ALTERATIONS[name](real, np.random.default_rng(seed)), -1, 1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("alteration", [name for name in ALTERATIONS if name not in PUBLISHED])
def test_copies_count_as_memorised_however_they_were_altered(
    alteration: str, channels: int
) -> None:
    """Cases 84 and 85."""
    rule, real = fitted(channels=channels)
    assert rule.judge(altered(real, alteration)).copied_N.mean() >= 0.99


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("alteration", ["exact", "jittered"])
def test_leaks_that_are_planted_among_honest_samples_are_stopped(
    share: float, alteration: str
) -> None:
    """Case 84: at 1, 5 and 20 %."""
    rule, real = fitted(count=100, per_patient=2)
    samples = images(300, 5)
    planted = np.random.default_rng(2).permutation(300)[: int(300 * share)]
    samples[planted] = altered(real[planted % 100], alteration)
    copied_N = rule.judge(samples).copied_N
    assert copied_N[planted].mean() >= 0.99
    assert np.delete(copied_N, planted).mean() <= 0.08


@pytest.fixture(scope="module", params=["phantom", "lung"])
def patients(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[np.ndarray, np.ndarray]:
    """images_NCHW of real patients, or of those of a phantom, in [-1, 1], and whose each is."""
    if request.param == "phantom":
        folder, pattern, most = tmp_path_factory.mktemp("phantom"), "*", 1000
        draw_phantom_site(1, 0, folder)
    else:
        folder, pattern, most = REAL_DATA / "Dataset301_LungCXR", "montgomery_*", 80
        if not folder.is_dir():
            pytest.skip(f"{folder.name} is not here; set HYFREE_DATA to the folder that holds it")
    files = sorted((folder / "labelsTr").glob(pattern))[:most]
    names = [file.name.split(".")[0] for file in files]
    stored_NCHW, _ = read(folder, names, 64, 48)
    _, patients_N = np.unique([name.split("_s")[0] for name in names], return_inverse=True)
    return restore(stored_NCHW), patients_N


def test_leaks_of_patients_are_stopped_and_new_patients_pass(
    patients: tuple[np.ndarray, np.ndarray],
) -> None:
    """Cases 84 and 87, by all detectors; an embedder of pixels stands for a trained network."""
    images_NCHW, patients_N = patients
    training_N = patients_N < 0.6 * patients_N.max()
    real_NCHW = images_NCHW[training_N]
    rule = MemorisationFilter.calibrate(real_NCHW, patients_N[training_N], measures(), percentile=5)
    for name in ("exact", "mirrored", "jittered"):
        assert rule.judge(altered(real_NCHW, name)).copied_N.mean() >= 0.99, name
    assert rule.judge(images_NCHW[~training_N]).copied_N.mean() <= 0.08


def test_patients_left_out_are_rejected_as_often_as_the_share_says(
    patients: tuple[np.ndarray, np.ndarray],
) -> None:
    """Case 87: the union of the detectors, at hospitals of 24 patients, drawn many times."""
    images_NCHW, patients_N = patients
    distances_DNN = np.stack(
        [Detector.fit(measure, images_NCHW).distances(images_NCHW) for measure in measures()]
    )
    rng, rejected = np.random.default_rng(0), []
    for _ in range(60):
        mine_N = np.isin(patients_N, rng.permutation(np.unique(patients_N))[:24])
        known_DMM = distances_DNN[:, mine_N][:, :, mine_N]
        same_MM = patients_N[mine_N][:, None] == patients_N[mine_N]
        nearest_DM = np.where(same_MM, np.inf, known_DMM).min(axis=2)
        thresholds_D = shared_thresholds(nearest_DM, patients_N[mine_N], 0.05)
        new_DN = distances_DNN[:, ~mine_N][:, :, mine_N].min(axis=2)
        rejected.append((new_DN < thresholds_D[:, None]).any(axis=0).mean())
    assert 0.01 < np.mean(rejected) <= 0.08


def test_together_the_detectors_reject_honest_images_as_often_as_the_percentile_says() -> None:
    shares = []
    for seed in range(4):
        real = images(80, 20 + seed)
        rule = MemorisationFilter.calibrate(real, np.arange(80), measures(), percentile=5)
        assert rule.calibration_rejected <= 0.05
        shares.append(rule.judge(images(150, 90 + seed)).copied_N.mean())
    assert 0.01 < np.mean(shares) <= 0.08


def test_one_detector_is_enough() -> None:
    rule, real = fitted()
    inverted = rule.judge(altered(real, "brightness +10 %"))
    assert inverted.copied_N.mean() >= inverted.copied_ND.mean(axis=0).max()
    np.testing.assert_array_equal(inverted.copied_N, inverted.copied_ND.any(axis=1))


def test_near_copies_within_a_patient_do_not_tighten_the_threshold() -> None:
    """Frames of one sequence are near copies: only other patients' images calibrate."""
    real = images(60, 0)
    frames = np.repeat(real, 3, axis=0)
    frames = frames + 0.01 * np.random.default_rng(1).normal(size=frames.shape).astype(np.float32)
    patients = np.repeat(np.arange(60), 3)
    rule = MemorisationFilter.calibrate(frames, patients, measures(), percentile=5)
    alone, _ = fitted(per_patient=1)
    assert all(
        one > 0.8 * other for one, other in zip(rule.thresholds, alone.thresholds, strict=True)
    )


def test_the_nearest_image_is_found_in_its_altered_form() -> None:
    rule, real = fitted()
    nearness_N, index_N = rule.judge(altered(real, "jittered")).nearest()
    np.testing.assert_array_equal(index_N, np.arange(len(real)))
    assert nearness_N.max() < 1


def test_exact_copies_are_stopped_even_where_two_patients_share_all_images() -> None:
    real = np.concatenate([images(30, 0)] * 2)
    rule = MemorisationFilter.calibrate(real, np.arange(60), measures(), percentile=5)
    assert rule.judge(real).copied_N.all()
    assert not rule.judge(images(30, 1)).copied_N.any()


def test_the_union_stays_within_the_share_however_many_detectors_there_are() -> None:
    rng = np.random.default_rng(0)
    scale_D1 = np.array([[1.0], [10.0], [0.1], [3.0]])
    seen = []
    for _ in range(50):
        nearest_DM = np.exp(rng.normal(size=(4, 60))) * scale_D1
        thresholds_D = shared_thresholds(nearest_DM, np.arange(60), 0.05)
        assert (nearest_DM < thresholds_D[:, None]).any(axis=0).sum() == 2  # (2 + 1) of 61
        new_DN = np.exp(rng.normal(size=(4, 400))) * scale_D1
        seen.append((new_DN < thresholds_D[:, None]).any(axis=0).mean())
    assert 0.03 < np.mean(seen) < 0.06


def test_patients_count_and_not_their_images() -> None:
    """One of forty patients has half of all images, and the lowest ones."""
    patients_M = np.concatenate([np.zeros(40, int), np.arange(1, 40)])
    nearest_DM = np.linspace(1, 2, 79)[None]
    (threshold,) = shared_thresholds(nearest_DM, patients_M, 0.05)
    assert (nearest_DM < threshold).sum() == 40  # 5 % of 41 patients is two, a new one included
    (few,) = shared_thresholds(nearest_DM[:, 40:50], patients_M[40:50], 0.05)
    assert (nearest_DM[:, 40:50] < few).sum() == 0  # of ten patients none, which is more than 5 %


def test_the_self_test_tells_recall_by_alteration_and_detector() -> None:
    rule, real = fitted()
    recall = self_test(rule, real, seed=4)
    assert set(recall) == set(ALTERATIONS)
    for by_detector in recall.values():
        assert set(by_detector) == {"features", "correlation", "structure", UNION}
        assert by_detector[UNION] >= max(by_detector.values()) - 1e-9
    assert recall["exact"][UNION] == 1
    assert recall["mirrored"][UNION] >= 0.979
    assert recall["blended 80:20"][UNION] > 0.5
    assert self_test(rule, real, seed=4) == recall
