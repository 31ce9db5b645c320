"""Detectors: what textures are blind to, what registration finds, what relative distances mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyfree_ray.privacy.alterations import (
    bent,
    cropped,
    posed,
    relit,
    shifted,
    with_channel,
    with_half,
)
from hyfree_ray.privacy.calibration import shared_thresholds
from hyfree_ray.privacy.detectors import (
    ONE_CHANNEL,
    Features,
    Registration,
    absolute_and_relative,
)
from hyfree_ray.privacy.pose_search import BAND, FULL_SIDE, PoseSearch, poses
from hyfree_ray.privacy.texture import (
    channel_weights,
    grid_shape,
    one_channel,
    resized,
    texture,
    warped,
)
from tests.privacy.test_memorization import embed, images, measures


def maps(images_NCHW: np.ndarray) -> torch.Tensor:
    return texture(one_channel(images_NCHW, np.ones(1), FULL_SIDE), BAND)


def test_textures_are_blind_to_brightness_and_contrast_and_keep_inversion_apart_by_sign() -> None:
    one = images(3, 0)
    torch.testing.assert_close(maps(0.5 * one + 0.3), maps(one), atol=2e-2, rtol=0)
    torch.testing.assert_close(maps(-one), -maps(one))


def test_textures_of_flat_images_are_zero() -> None:
    flat = np.full((2, 1, 40, 28), 0.3, np.float32)
    assert maps(flat).abs().max() < 1e-2


def test_channels_of_opposite_contrast_do_not_cancel_out() -> None:
    one = images(6, 0)
    weights_C = channel_weights(np.concatenate([one, -one], axis=1))
    np.testing.assert_allclose(weights_C[0], -weights_C[1], atol=1e-6)
    np.testing.assert_allclose(channel_weights(np.concatenate([one, one, one], axis=1)), 1 / 3)
    assert channel_weights(one) == [1]


@pytest.mark.parametrize("shape", [(64, 48), (40, 28), (256, 20), (32, 32)])
def test_grids_keep_proportions(shape: tuple[int, int]) -> None:
    tall, wide = grid_shape(*shape, 24)
    assert max(tall, wide) == 24
    assert wide == 8 or tall / wide == pytest.approx(shape[0] / shape[1], rel=0.1)


def test_places_are_measured_from_the_centre_along_columns_and_rows() -> None:
    grid = resized(one_channel(images(1, 0), np.ones(1), 64), 64)[:, :, :, :44]
    turned = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    found = warped(grid, turned, torch.zeros(1, 2), (44, 64))
    torch.testing.assert_close(found, torch.rot90(grid, 1, (2, 3)), atol=1e-3, rtol=0)
    moved = warped(grid, torch.eye(2)[None], torch.tensor([[2.0, -1.0]]), (64, 44))
    torch.testing.assert_close(moved[..., 1:, :-2], grid[..., :-1, 2:], atol=1e-3, rtol=0)


def test_images_that_are_not_square_are_also_stretched_when_turned_by_90_degrees() -> None:
    assert len(poses(40, 28)) == len(poses(32, 32)) + 8


@pytest.mark.parametrize(("channels", "precision"), [(1, "fp32"), (1, "bf16"), (3, "bf16")])
def test_the_image_is_found_however_it_was_moved(channels: int, precision: str) -> None:
    real = images(10, 0, channels)
    detector = Registration(precision=precision).fit(real, np.arange(10))
    copies = [
        real[:2],
        -real[2:4, :, ::-1],
        cropped(posed(real[4:6], degrees=-10), 0.2),
        relit(shifted(real[6:8], 1 / 8, -1 / 8), 2),
        bent(real[8:], 2, np.random.default_rng(0)),
    ]
    found = detector.nearest(np.concatenate(copies).astype(np.float32))
    whole = detector.names.index("whole")
    np.testing.assert_array_equal(found.index_ND[:, whole], np.arange(10))
    honest = detector.nearest(real, np.arange(10))
    assert found.distance_ND[:, whole].max() < honest.distance_ND[:, whole].min()


def test_half_a_patient_is_found_by_its_half() -> None:
    real, strangers = images(12, 0), images(12, 1)
    detector = Registration().fit(real, np.arange(12))
    found = detector.nearest(np.concatenate([with_half(real, strangers), strangers]))
    half = detector.names.index("half")
    np.testing.assert_array_equal(found.index_ND[:12, half], np.arange(12))
    assert found.distance_ND[:12, half].max() < found.distance_ND[12:, half].min()


def test_one_sequence_of_a_patient_is_found_whatever_the_others_show() -> None:
    real, strangers = images(8, 0, channels=3), images(8, 1, channels=3)
    detector = Registration().fit(real, np.arange(8))
    copies = with_channel(real[:, :, :, ::-1], strangers, np.random.default_rng(0))
    found = detector.nearest(np.concatenate([copies, strangers]).astype(np.float32))
    apart = detector.names.index(ONE_CHANNEL)
    np.testing.assert_array_equal(found.index_ND[:8, apart], np.arange(8))
    assert found.distance_ND[:8, apart].max() < found.distance_ND[8:, apart].min()
    assert ONE_CHANNEL not in Registration().fit(real[:, :1], np.arange(8)).names


def test_the_same_image_is_at_distance_zero_and_found_the_same_again() -> None:
    real = images(5, 0, channels=3)
    found, again = (Registration().fit(real, np.arange(5)).nearest(real) for _ in range(2))
    assert found.distance_ND.max() < 0.05
    np.testing.assert_array_equal(found.distance_ND, again.distance_ND)


def test_a_patients_own_images_can_be_left_out() -> None:
    real, patients = images(8, 0), np.arange(8) // 2
    for measure in measures():
        found = measure.fit(real, patients).nearest(real, patients)
        assert (patients[found.index_ND] != patients[:, None]).all()


def test_candidates_are_equally_many_for_every_sample_in_its_order() -> None:
    search = PoseSearch(one_channel(images(5, 0), np.ones(1), FULL_SIDE), finest=FULL_SIDE)
    found = search(one_channel(images(3, 1), np.ones(1), FULL_SIDE), None)
    assert torch.bincount(found.sample_K).tolist() == [len(found.sample_K) // 3] * 3
    assert (found.sample_K.diff() >= 0).all()


def test_features_are_compared_mirrored() -> None:
    real = images(5, 0)
    detector = Features(embed=embed).fit(real, np.arange(5))
    found = detector.nearest(real[:, :, ::-1, ::-1].copy())
    assert found.distance_ND[:, 0].max() < 1e-3
    np.testing.assert_array_equal(found.index_ND[:, 0], np.arange(5))


def test_constant_images_are_compared_without_a_nan() -> None:
    flat = np.full((2, 1, 40, 28), -1, np.float32)
    for measure in measures():
        found = measure.fit(images(4, 0), np.arange(4)).nearest(flat)
        assert np.isfinite(found.distance_ND).all()


def test_a_relative_distance_is_over_the_nearest_of_another_patient() -> None:
    distance_NM = np.array([[0.1, 0.2, 0.5], [0.4, 0.4, 0.3]])
    both_ND, at_N = absolute_and_relative(distance_NM, np.array([0, 0, 1]))
    np.testing.assert_allclose(both_ND, [[0.1, 0.2], [0.3, 0.75]])
    assert at_N.tolist() == [0, 2]
    alone, _ = absolute_and_relative(distance_NM[:, :2], np.array([0, 0]))
    np.testing.assert_allclose(alone[:, 1], 1)


@pytest.mark.parametrize("patients", [20, 36, 100])
def test_copies_of_a_rare_patient_are_stopped_as_those_of_a_typical_one(patients: int) -> None:
    """Copies 30 % of the way to the next patient, by three detectors of drawn features."""
    stopped: dict[int, list[float]] = {0: [], 1: []}
    rejected = []
    for seed in range(60):
        rng = np.random.default_rng([patients, seed])
        projections = rng.normal(size=(3, 6, 6))
        known = rng.normal(size=(patients, 6))
        known[0] *= 4  # the rare one
        whose = np.arange(patients)

        def nearest(
            query: np.ndarray, left_out: bool, projections=projections, known=known, whose=whose
        ) -> np.ndarray:
            found = []
            for one in projections:
                gaps = np.linalg.norm((query @ one)[:, None] - known @ one, axis=2) / 20
                if left_out:
                    np.fill_diagonal(gaps, 2.0)
                found += list(absolute_and_relative(gaps, whose)[0].T)
            return np.stack(found)

        thresholds_D1 = shared_thresholds(nearest(known, True), whose, 0.05)[:, None]
        strangers = nearest(rng.normal(size=(20, 6)), False)
        rejected.append((strangers < thresholds_D1).any(axis=0).mean())
        for who, found in stopped.items():
            way = rng.normal(size=(20, 6))
            way /= np.linalg.norm(way, axis=1, keepdims=True)
            gap = np.sort(np.linalg.norm(known - known[who], axis=1))[1]
            copies = nearest(known[who] + 0.3 * gap * way, False)
            found.append((copies < thresholds_D1).any(axis=0).mean())
    assert np.mean(rejected) < 0.13
    assert np.mean(stopped[0]) > 0.8  # 0.01 to 0.08 by absolute distances
    assert np.mean(stopped[0]) > np.mean(stopped[1]) - 0.05
