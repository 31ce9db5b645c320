"""The gate: a card that may travel, and each fault that it is closed for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate, check_card, violations
from hyfree_ray.border.manifest import Manifest
from hyfree_ray.border.privacy_card import PrivacyCard, describe, read_card
from hyfree_ray.border.release import Release, ReleaseMetadata
from hyfree_ray.core.errors import ReleaseError
from tests.cards import attack, card
from tests.refusals import refuses


def of(**changes: Any) -> list[str]:
    return violations(PrivacyCard.model_validate(card(**changes)), Gate())


def recall(share: float) -> dict[str, Any]:
    return {"exact": {"any": share}, "mirrored": {"any": share}}


def attacks(**changes: Any) -> dict[str, Any]:
    return {"measurable": True, "non_member_patients": 30, "nearest": attack(**changes)}


def test_a_good_card_passes_and_so_does_one_that_cannot_tell() -> None:
    assert of() == []
    few = {"measurable": False, "reason": "not measurable: 12 patients are held out"}
    assert of(attacks=few, nearer_to_training=None) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejection_rate": 0.51}, "51% of the samples look like copies"),
        ({"self_test": recall(0.98)}, "catches 98% of exact copies"),
        ({"self_test": {"exact": {"any": 1.0}}}, "catches 0% of mirrored copies"),
        (
            {"attacks": attacks(auc=0.62, control=0.5, over=True)},
            "AUC 0.62, control 0.50; more than 0.05 over it",
        ),
        ({"nearer_to_training": 0.8}, "80% of the images are nearer to a training image"),
    ],
)
def test_each_bound_closes_it_and_says_why_in_plain_words(
    changes: dict[str, Any], said: str
) -> None:
    (fault,) = of(**changes)
    assert said in fault
    assert "\n" not in fault


def test_an_attack_counts_only_over_its_control() -> None:
    assert of(attacks=attacks(auc=0.7, control=0.5, over=False)) == []
    assert of(attacks=attacks(auc=0.62, control=0.42, over=True)) == []
    assert of(attacks=attacks(auc=0.7, control=0.42, over=True))


def test_a_control_that_is_invalid_excuses_nothing() -> None:
    """An attack beside a broken control is judged against chance: the gate fails closed."""
    broken = {"control_valid": False, "control": 0.75, "control_interval": [0.6, 0.9]}
    clear = {**attack(auc=0.7), **broken, "interval": [0.6, 0.8]}
    doubtful = {**attack(auc=0.7), **broken, "interval": [0.45, 0.8]}
    (fault,) = of(attacks={"measurable": True, "nearest": clear})
    told = "AUC 0.70, control 0.75, which is invalid; more than 0.05 over chance"
    assert told in fault
    assert of(attacks={"measurable": True, "nearest": doubtful}) == []
    assert of(attacks={"measurable": True, "nearest": {**clear, "control_valid": True}}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"nearest_distance": 0.01},
        {"patients": ["p-17"]},
        {"rejection_rate": float("nan")},
        {"rejection_rate": 1.2},
        {"rejection_rate": "0.1"},
        {"nearer_to_training": True},
        {"self_test": None},
        {"self_test": {"exact": {"any": 2}}},
        {"attacks": {"measurable": True, "nearest": {"auc": 0.5}}},
        {"statement": "anonymous"},
        {"images": -1},
        {"detectors": ["x" * 100]},
    ],
    ids=str,
)
def test_a_card_that_is_not_ours_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))) as caught:
        read_card(card() | changes)
    assert "\n" not in str(caught.value)


def test_a_card_survives_json() -> None:
    assert read_card(json.loads(json.dumps(card()))) == PrivacyCard.model_validate(card())


def test_a_card_without_a_field_is_refused() -> None:
    for name in card():
        if name != "statement":  # it is a constant
            with pytest.raises(ValueError, match=name):
                read_card({key: value for key, value in card().items() if key != name})


def release(values: dict[str, Any], rows: int = 6) -> Release:
    metadata = ReleaseMetadata(
        site="site-1",
        channel_names=("MR",),
        label_names={"background": 0},
        spacing=(1.0, 2.0),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=values,
    )
    manifest = Manifest(
        site="site-1", experiment="e", round=1, nonce="n", rows=rows, sha256="0" * 64, bytes=1
    )
    return Release(
        manifest=manifest,
        metadata=metadata,
        images_NCHW=np.zeros((rows, 1, 5, 3), np.uint8),
        labels_NHW=np.zeros((rows, 5, 3), np.uint8),
    )


@pytest.mark.parametrize(
    ("values", "rows", "rule"),
    [
        ({}, 6, "card"),
        (card(), 5, "card"),
        (card(nearer_to_training=0.9), 6, "gate"),
    ],
)
def test_the_pool_refuses_by_rule(values: dict[str, Any], rows: int, rule: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        check_card(release(values, rows), Gate())
    assert caught.value.rule == rule
    assert caught.value.site == "site-1"


def test_a_pools_gate_may_be_stricter_than_a_sites() -> None:
    assert check_card(release(card()), Gate()).rejection_rate == 0.12
    with refuses("release.gate", "12%", "10%"):
        check_card(release(card()), Gate(max_rejection_rate=0.1))


def test_a_card_in_words_says_what_it_is_not_and_what_was_attacked() -> None:
    text = "\n".join(describe(PrivacyCard.model_validate(card())))
    assert "Not a declaration of anonymity" in text
    assert "membership attack 'nearest': AUC 0.52 [0.40, 0.90], control 0.49" in text
    assert "70% blended 80:20" in text
    broken = {"measurable": True, "nearest": {**attack(0.6, 0.72), "control_valid": False}}
    text = "\n".join(describe(PrivacyCard.model_validate(card(attacks=broken))))
    assert "AUC 0.60 [0.40, 0.90], control 0.72, which is invalid" in text
