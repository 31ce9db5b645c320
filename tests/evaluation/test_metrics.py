"""Legend: H height, W width; spacings are (height, width) in mm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from hyfree_ray.evaluation.metrics import (
    METRICS,
    NSD_TOLERANCE_MM,
    LabelScore,
    Metric,
    metrics_in_order,
    score_case,
)

LABELS = {"organ": 1, "lesion": 2}


def blob(shape: tuple[int, ...], centre: tuple[float, ...], radius: tuple[float, ...]) -> Any:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (
        sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)) <= 1.0
    )


def one(prediction: Any, reference: Any, spacing: tuple[float, ...]) -> LabelScore:
    (score,) = score_case(
        prediction.astype(np.uint8), reference.astype(np.uint8), {"organ": 1}, spacing
    )
    return score


def brute_force_hd95(one: Any, other: Any, spacing: tuple[float, ...]) -> float:
    """Every surface point against every other, in plain numpy."""

    def surface(mask: Any) -> Any:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(mask.ndim):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        return np.argwhere(padded & ~inner) * np.asarray(spacing)

    distances = cdist(surface(one), surface(other))
    return float(max(np.percentile(distances.min(axis), 95) for axis in (0, 1)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 2.5)])
@pytest.mark.parametrize("seed", range(4))
def test_hd95_is_what_brute_force_finds(spacing: tuple[float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    prediction = blob((40, 25), (18, 12), (9, 7)) ^ (random.random((40, 25)) < 0.03)
    reference = blob((40, 25), (22, 9), (7, 11)) | (random.random((40, 25)) < 0.02)
    score = one(prediction, reference, spacing)
    assert score.outcome == "scored"
    assert score.values["hd95"] == pytest.approx(
        brute_force_hd95(prediction, reference, spacing), rel=1e-5
    )


def test_hd95_at_the_border_of_the_image_is_what_brute_force_finds() -> None:
    prediction, reference = np.zeros((12, 30), bool), np.zeros((12, 30), bool)
    prediction[:, :4], reference[:, 20:] = True, True
    expected = brute_force_hd95(prediction, reference, (2.0, 0.5))
    assert one(prediction, reference, (2.0, 0.5)).values["hd95"] == pytest.approx(
        expected, rel=1e-5
    )


def test_a_shift_costs_its_length_in_mm_along_its_axis() -> None:
    upright, lying = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    upright[:, 20:30], lying[20:30] = True, True
    assert one(np.roll(lying, 3, 0), lying, (0.5, 2.0)).values["hd95"] == pytest.approx(1.5)
    assert one(np.roll(upright, 3, 1), upright, (0.5, 2.0)).values["hd95"] == pytest.approx(6.0)


def test_volumes_are_scored_and_axes_of_length_one_are_left_out() -> None:
    prediction = blob((9, 24, 15), (4, 12, 7), (3, 8, 5))
    reference = blob((9, 24, 15), (5, 11, 8), (3, 6, 6))
    spacing = (5.0, 0.7, 1.3)
    expected = brute_force_hd95(prediction, reference, spacing)
    assert one(prediction, reference, spacing).values["hd95"] == pytest.approx(expected, rel=1e-5)
    flat = one(prediction[4:5], reference[4:5], spacing)
    assert flat == one(prediction[4], reference[4], spacing[1:])
    assert flat.values["hd95"] == pytest.approx(
        brute_force_hd95(prediction[4], reference[4], spacing[1:]), rel=1e-5
    )


def test_dice_is_what_nnunets_evaluator_finds(tmp_path: Path) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    random = np.random.default_rng(0)
    prediction, reference = (random.integers(0, 3, (30, 17), np.uint8) for _ in range(2))
    for name, label_HW in (("prediction", prediction), ("reference", reference)):
        sitk.WriteImage(sitk.GetImageFromArray(label_HW[None]), tmp_path / f"{name}.nii.gz")
    theirs = compute_metrics(
        str(tmp_path / "reference.nii.gz"),
        str(tmp_path / "prediction.nii.gz"),
        SimpleITKIO(),
        [1, 2],
    )["metrics"]
    ours = score_case(prediction, reference, LABELS, (1.0, 1.0))
    assert [score.label for score in ours] == ["organ", "lesion"]
    assert [score.values["dice"] for score in ours] == pytest.approx(
        [theirs[1]["Dice"], theirs[2]["Dice"]]
    )


def brute_force_nsd(one: Any, other: Any, spacing: tuple[float, ...], tolerance: float) -> float:
    def surface(mask: Any) -> Any:
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(mask.ndim):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        return np.argwhere(padded & ~inner) * np.asarray(spacing)

    distances = cdist(surface(one), surface(other))
    near = [distances.min(axis) <= tolerance for axis in (0, 1)]
    return float(np.concatenate(near).mean())


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.45, 2.5)])
def test_surface_dice_is_what_brute_force_finds(spacing: tuple[float, float]) -> None:
    prediction = blob((40, 25), (18, 12), (9, 7))
    reference = blob((40, 25), (22, 9), (7, 11))
    expected = brute_force_nsd(prediction, reference, spacing, NSD_TOLERANCE_MM)
    assert 0.0 < expected < 1.0
    assert one(prediction, reference, spacing).values["nsd"] == pytest.approx(expected, rel=1e-6)


def test_volume_error_is_the_difference_over_the_mean() -> None:
    large, small = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    large[2:8, 3:13], small[2:6, 3:13] = True, True
    assert one(large, small, (0.5, 2.0)).values["volume_error"] == pytest.approx(20 / 50)
    assert one(small, large, (0.5, 2.0)).values["volume_error"] == pytest.approx(20 / 50)
    assert one(np.roll(small, 9, 1), small, (0.5, 2.0)).values["volume_error"] == 0.0


def test_what_is_empty_gets_the_stated_values() -> None:
    """Case 35."""
    mask, empty = blob((30, 40), (9, 20), (5, 8)), np.zeros((30, 40), bool)
    diagonal = math.hypot(30 * 0.5, 40 * 2.0)
    missed, alarm = one(empty, mask, (0.5, 2.0)), one(mask, empty, (0.5, 2.0))
    assert (missed.outcome, missed.values["dice"]) == ("missed", 0.0)
    assert (alarm.outcome, alarm.values["dice"]) == ("false-alarm", 0.0)
    assert missed.values["hd95"] == alarm.values["hd95"] == pytest.approx(diagonal)
    assert (
        (missed.values["nsd"], missed.values["volume_error"])
        == (alarm.values["nsd"], alarm.values["volume_error"])
        == (0.0, 2.0)
    )
    neither = one(empty, empty, (0.5, 2.0))
    assert (neither.outcome, neither.values["dice"], neither.values["hd95"]) == (
        "both-empty",
        None,
        None,
    )
    assert (neither.values["nsd"], neither.values["volume_error"]) == (None, None)
    same = one(mask, mask, (0.5, 2.0))
    assert (same.outcome, same.values["dice"], same.values["hd95"]) == ("scored", 1.0, 0.0)
    assert (same.values["nsd"], same.values["volume_error"]) == (1.0, 0.0)


def test_no_measured_distance_is_beyond_the_penalty() -> None:
    far, near = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    far[0, 0], near[-1, -1] = True, True
    score = one(far, near, (0.5, 2.0))
    assert score.values["hd95"] is not None
    assert score.values["hd95"] < math.hypot(30 * 0.5, 40 * 2.0)


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="spacing 3"):
        score_case(np.zeros((3, 4)), np.zeros((3, 4)), LABELS, (1, 1, 1))
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        score_case(np.zeros((4, 3)), np.zeros((3, 4)), LABELS, (1, 1))


def test_a_miss_counts_no_better_than_anything_measured() -> None:
    mask, empty = blob((30, 40), (9, 20), (5, 8)), np.zeros((30, 40), bool)
    bad = np.zeros((30, 40), bool)
    bad[-1, -1] = True
    measured, missed = one(bad, mask, (0.5, 2.0)).values, one(empty, mask, (0.5, 2.0)).values
    for metric in METRICS.built_in():
        worst, found = missed[metric.name], measured[metric.name]
        assert worst is not None
        assert found is not None
        assert worst <= found if metric.better == "higher" else worst >= found


def test_a_metric_is_computed_and_shown_by_what_its_record_says() -> None:
    share = Metric(
        name="found",
        label="found",
        description="share of the reference that is found",
        better="higher",
        measure=lambda found, true, spacing: float((found & true).sum() / true.sum()),
        miss=lambda found, true, spacing: -1.0,
        miss_counts="-1",
    )
    reference = np.zeros((6, 5), np.uint8)
    reference[1:3, :4] = 1
    prediction = np.roll(reference, 1, 1)
    labels = {"organ": 1, "lesion": 2}
    scored, neither = score_case(prediction, reference, labels, (1.0, 2.0), [share])
    assert scored.values == {"found": 0.75}
    assert neither.values == {"found": None}
    (missed,) = score_case(0 * reference, reference, {"organ": 1}, (1.0, 2.0), [share])
    assert missed.values == {"found": -1.0}
    assert (share.heading, share.text(0.75)) == ("found x 100", ".750")
    hd95 = METRICS["hd95"]
    assert (hd95.heading, hd95.text(3.14159)) == ("HD95 in mm (lower is better)", "3.1")


def test_columns_are_the_projects_metrics_and_then_others_by_name() -> None:
    own = [metric.name for metric in metrics_in_order(["nsd", "dice"])]
    assert own == ["dice", "hd95", "nsd", "volume_error"]
