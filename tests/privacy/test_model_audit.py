"""A model that segments those better whom it was trained on tells who they are."""

from __future__ import annotations

import numpy as np

from hyfree_ray.privacy.membership import membership
from hyfree_ray.privacy.model_audit import attack_model


def cases(gain: float, seed: int = 0) -> list[tuple[int, bool, float | None]]:
    """Three cases a patient, 40 members and 24 others; some show nothing at all."""
    random = np.random.default_rng(seed)
    rows: list[tuple[int, bool, float | None]] = []
    for patient in range(64):
        dice = random.uniform(0.5, 0.8)
        rows += [(patient, patient < 40, dice + gain * (patient < 40)) for _ in range(2)]
        rows.append((patient, patient < 40, None))
    return rows


def test_a_model_that_knows_its_patients_is_found_and_another_not() -> None:
    knows, ignorant = attack_model(cases(0.2)), attack_model(cases(0.0))
    assert knows is not None
    assert ignorant is not None
    assert membership(knows)["auc_bound"] > 0.55
    assert membership(ignorant)["auc_bound"] <= 0.55
    assert list(membership(knows)["by_name"]) == ["loss"]
    assert (membership(knows)["members"], membership(knows)["held_out"]) == (40, 24)


def test_patients_are_scored_by_the_mean_of_their_cases() -> None:
    found = attack_model([(1, True, 0.2), (1, True, 0.6), (2, False, 0.5), (3, False, None)])
    assert found is not None
    assert found.score_AP.round(3).tolist() == [[0.4, 0.5]]
    assert found.member_P.tolist() == [True, False]


def test_without_a_case_of_a_member_nothing_is_said() -> None:
    assert attack_model([(1, True, None), (2, False, 0.5)]) is None
