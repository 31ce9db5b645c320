"""The gate: a card that may travel, and each fault that it is closed for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate, check_card, criteria, violations, visible_auc
from hyfree_ray.border.manifest import Manifest
from hyfree_ray.border.privacy_card import PrivacyCard, describe, read_card
from hyfree_ray.border.release import Release, ReleaseMetadata
from hyfree_ray.core.errors import ReleaseError
from tests.cards import card, findings, too_few
from tests.refusals import refuses


def of(**changes: Any) -> list[str]:
    return violations(PrivacyCard.model_validate(card(**changes)), Gate())


def recall(share: float) -> dict[str, Any]:
    return {"exact": {"any": share}, "mirrored": {"any": share}}


def concentrated(p: float) -> dict[str, Any]:
    return findings() | {"concentration": {"share": 0.3, "p": p}}


def earlier(together: dict[str, Any] | None) -> dict[str, Any]:
    return {"releases": 2, "audits": 4, "together": together}


def guarantee(epsilon: float) -> dict[str, Any]:
    return {"epsilon": epsilon, "delta": 0.001, "public": ["plan"], "outside": ["labels"]}


def test_a_good_card_passes() -> None:
    assert of() == []
    assert of(guarantee=guarantee(3.0)) == []
    assert of(history=earlier(findings())) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejection_rate": 0.51}, "look like copies of training images: 51%"),
        ({"self_test": recall(0.98)}, "exact copies"),
        ({"self_test": {"exact": {"any": 1.0}}}, "mirrored copies"),
        ({"copy_recall": {"altered": 0.89}}, "altered copies"),
        ({"copy_recall": {}}, "altered copies"),
        ({"copy_recall": {"altered": 0.95, "generated": 0.5}}, "generated copies"),
        ({"findings": findings(auc=0.7, auc_bound=0.56)}, "0.56 (AUC 0.70"),
        ({"findings": findings(tpr=0.3, tpr_bound=0.11)}, "0.11 (share 0.30)"),
        ({"findings": concentrated(0.0)}, "near to one patient"),
        ({"history": earlier(findings(auc_bound=0.6))}, "3 releases together"),
        ({"history": earlier(concentrated(0.0))}, "3 releases together"),
        ({"guarantee": guarantee(11.0)}, "epsilon"),
    ],
)
def test_each_bound_closes_it_and_says_why_in_plain_words(
    changes: dict[str, Any], said: str
) -> None:
    faults = of(**changes)
    assert said in faults[0]
    assert not any("\n" in fault for fault in faults)
    assert all("held-out patients" in fault for fault in faults[1:])


DRAWN = "drawn with the images"


def masks(**self_test: float) -> dict[str, Any]:
    attacks = findings()["attacks"]
    return {"self_test": self_test, "of_held_out": 0.05, "attacks": attacks}


def test_drawn_masks_are_on_the_card_with_their_whole_self_test() -> None:
    """A lazy site leaves out what would close the gate."""
    assert of(labels=DRAWN, masks=masks(exact=1.0, mirrored=1.0)) == []
    (fault,) = of(labels=DRAWN, masks=masks(exact=1.0))
    assert "mirrored copies of the site's own masks" in fault
    for changes in ({"labels": DRAWN}, {"masks": masks(exact=1.0, mirrored=1.0)}):
        with pytest.raises(ValueError, match="masks"):
            read_card(card() | changes)


def test_where_attacks_see_too_little_the_self_test_has_to_have_passed() -> None:
    """The attack could not have closed the gate at three held-out patients."""
    assert of(findings=too_few()) == []
    assert any(
        "held-out" in fault for fault in of(findings=too_few(), copy_recall={"altered": 0.5})
    )
    none = {"measurable": False, "reason": "nobody is held out", "members": 9, "held_out": 0}
    alone = {"attacks": none, "concentration": None}
    assert of(findings=alone) == []
    assert any("held-out" in fault for fault in of(findings=alone, copy_recall={}))


def test_a_card_says_what_its_attacks_could_have_seen() -> None:
    few = PrivacyCard.model_validate(card(findings=too_few()))
    assert visible_auc(few.findings.attacks, Gate()) is None
    many = findings(members=330, held_out=113, chance=0.56)["attacks"]
    seen = PrivacyCard.model_validate(card(findings=findings(**many))).findings.attacks
    assert visible_auc(seen, Gate()) == pytest.approx(0.64, abs=0.03)
    assert any("could see none" in one.found for one in criteria(few, Gate()))


def test_the_gate_is_one_table_with_a_row_for_each_bound() -> None:
    made = PrivacyCard.model_validate(card(guarantee=guarantee(3.0), history=earlier(findings())))
    rows = criteria(made, Gate())
    assert len({row.name for row in rows}) == len(rows) == 13
    assert all(row.passed for row in rows)
    carried = PrivacyCard.model_validate(
        json.loads(json.dumps(card(gate=[row.model_dump() for row in rows])))
    )
    assert carried.gate == rows


def test_a_table_that_a_card_carries_convinces_no_other_gate() -> None:
    """A site's own gate may be wide open."""
    rows = [row.model_dump() for row in criteria(PrivacyCard.model_validate(card()), Gate())]
    with refuses("release.gate", "51%"):
        check_card(release(card(rejection_rate=0.51, gate=rows)), Gate())


@pytest.mark.parametrize(
    "changes",
    [
        {"nearest_distance": 0.01},
        {"patients": ["p-17"]},
        {"rejection_rate": float("nan")},
        {"rejection_rate": 1.2},
        {"rejection_rate": "0.1"},
        {"copy_recall": True},
        {"self_test": None},
        {"self_test": {"exact": {"any": 2}}},
        {"findings": {"attacks": {"measurable": True, "nearest": {"auc": 0.5}}}},
        {"guarantee": {"epsilon": float("inf"), "delta": 0.1, "public": [], "outside": []}},
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


OPTIONAL = {"statement", "gate", "guarantee", "epsilon_bound", "masks", "patients_left_out"}
"""A constant, what a site adds to its own card, and what was not asked for."""


def test_a_card_without_a_field_is_refused() -> None:
    for name in card():
        if name not in OPTIONAL:
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
        (card(rejection_rate=0.9), 6, "gate"),
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
    assert "membership attack 'nearest': AUC 0.52, 7% recognised at 5% mistaken" in text
    assert "AUC 0.55, by chance up to 0.63" in text
    assert "70% blended 80:20" in text
    none = {"measurable": False, "reason": "nobody is held out", "members": 9, "held_out": 0}
    alone = {"attacks": none, "concentration": None}
    assert "nobody is held out" in "\n".join(
        describe(PrivacyCard.model_validate(card(findings=alone)))
    )
