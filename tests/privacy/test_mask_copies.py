"""Copies of real masks are stopped, new patients' masks mostly pass, small ones are of nobody."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate, violations
from hyfree_ray.border.privacy_card import describe, read_card
from hyfree_ray.privacy.mask_copies import (
    NAME,
    MaskFilter,
    altered,
    recall,
    widened,
    without_a_part,
)
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import DrawnMasks, draw_until
from tests.cards import attacks, card
from tests.privacy.test_memorization import by_features, images

SIZE = (40, 56)


def lesions(count: int, seed: int) -> np.ndarray:
    """Two labels: a wavy blob of its own and a smaller one within."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = np.zeros((count, *SIZE), np.uint8)
    for mask_HW in masks:
        y, x = random.uniform(14, 26), random.uniform(18, 38)
        angle = np.arctan2(rows - y, columns - x)
        radius = np.hypot(rows - y, columns - x)
        waves = sum(
            random.normal(0, 0.22) * np.cos(n * angle + random.uniform(0, 6)) for n in range(1, 5)
        )
        size = random.uniform(5, 7)
        mask_HW[radius < size * (1 + waves)] = 1
        mask_HW[radius < size * 0.5 * (1 + waves)] = 2
    return masks


REAL = lesions(60, 0)
PATIENTS = np.arange(60) // 2


@pytest.fixture(scope="module")
def rule() -> MaskFilter:
    return MaskFilter.calibrate(REAL, PATIENTS, percentile=5)


def test_copies_are_stopped_wherever_they_lie(rule: MaskFilter) -> None:
    copies = altered(REAL[::4])
    for name in ("exact", "mirrored", "moved"):
        assert rule.judge(copies[name]).copied_N.all(), name
    turned = np.ascontiguousarray(REAL[:20, ::-1, ::-1])
    assert rule.judge(turned).copied_N.all()


def test_copies_whose_outline_was_changed_are_stopped(rule: MaskFilter) -> None:
    """Case 117: wider, narrower, smoothed, or without a part; the card says how many of each."""
    found = recall(rule, REAL, most=24, seed=0)
    assert set(found) == set(altered(REAL[:1]))
    assert {name: found[name] for name in ("exact", "mirrored", "moved")} == {
        "exact": 1,
        "mirrored": 1,
        "moved": 1,
    }
    assert min(found.values()) >= 0.9, found


def test_two_changes_at_once_do_not_hide_a_copy(rule: MaskFilter) -> None:
    """Case 117: mirrored, moved and a pixel wider; changes that calibration did not look at."""
    moved_NHW = np.roll(widened(REAL[::3, :, ::-1], 1), (3, -4), axis=(1, 2))
    assert rule.judge(moved_NHW).copied_N.mean() >= 0.9


def test_a_mask_without_a_part_is_that_mask_and_each_part_is_left_out_once() -> None:
    mask_HW = np.zeros((20, 30), np.uint8)
    mask_HW[2:8, 2:10] = 1
    mask_HW[4:6, 4:6] = 2
    mask_HW[12:18, 15:29] = 1
    less = without_a_part(mask_HW)
    assert sorted(int((one > 0).sum()) for one in less) == [48, 84, 88, 128]
    assert without_a_part(np.zeros((5, 7), np.uint8)) == []


def test_new_patients_masks_mostly_pass(rule: MaskFilter) -> None:
    assert rule.judge(lesions(200, 9)).copied_N.mean() < 0.12


def test_masks_that_show_next_to_nothing_are_of_nobody(rule: MaskFilter) -> None:
    empty = np.zeros((2, *SIZE), np.uint8)
    empty[1, 5, 5:9] = 1
    assert not rule.judge(empty).copied_N.any()
    nothing = MaskFilter.calibrate(np.zeros((6, *SIZE), np.uint8), np.arange(6), percentile=5)
    assert not nothing.judge(REAL).copied_N.any()
    assert recall(nothing, np.zeros((6, *SIZE), np.uint8), most=3, seed=0) == {}


def test_a_new_image_with_a_real_mask_is_dropped_and_counted(rule: MaskFilter) -> None:
    real_NCHW, new_NCHW = images(40, 0), images(60, 7)
    of_images = MemorisationFilter.calibrate(real_NCHW, np.arange(40), by_features(), percentile=5)
    masks = np.concatenate([REAL[:30], lesions(30, 11)])
    batches: list[np.ndarray] = []

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        batches.append(masks[start : start + count])
        yield new_NCHW[start : start + count]

    found = draw_until(
        60 // 4,
        draw,
        of_images,
        max_rejection_rate=1.0,
        masks=DrawnMasks(rule=rule, batches=batches),
    )
    assert (found.accepted_at_N >= 30).all()
    assert found.rejected_by[NAME] >= 30
    assert found.rejected >= 30


def test_the_gate_judges_masks_and_the_card_says_where_labels_come_from() -> None:
    good = {
        "labels": "drawn with the images",
        "masks": {
            "self_test": {"exact": 1.0, "mirrored": 1.0, "moved": 1.0},
            "of_held_out": 0.05,
            "attacks": attacks(),
        },
    }
    assert violations(read_card(card(**good)), Gate()) == []
    assert any("drawn with the images" in line for line in describe(read_card(card(**good))))
    assert any("its labels: the site's own network" in line for line in describe(read_card(card())))
    leaky = {**good["masks"], "self_test": {"exact": 0.5, "mirrored": 1.0}}  # type: ignore[dict-item]
    told = {**good["masks"], "attacks": attacks(auc=0.9, auc_bound=0.8)}  # type: ignore[dict-item]
    for bad in (leaky, told):
        assert len(violations(read_card(card(**{**good, "masks": bad})), Gate())) == 1
