from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.evaluation.choice import MARGIN, choose_regime, loss_probability

LOCAL = {patient: 0.6 + 0.03 * patient for patient in range(10)}


def moved(*changes: float) -> dict[int, float]:
    """The control's Dice, changed; the changes in turn."""
    return {
        patient: dice + changes[position % len(changes)]
        for position, (patient, dice) in enumerate(LOCAL.items())
    }


def test_what_travels_best_is_chosen_where_it_is_shown_not_to_be_worse() -> None:
    same = moved(0.0)
    dice = {"personalised": same, "finetuned": same, "local2x": LOCAL}
    assert choose_regime(dice) == "personalised"


def test_a_loss_within_the_margin_is_taken_and_one_beyond_it_is_not() -> None:
    little, much = moved(-MARGIN + 0.005), moved(-MARGIN - 0.005)
    dice = {"personalised": little, "finetuned": LOCAL, "local2x": LOCAL}
    assert choose_regime(dice) == "personalised"
    assert choose_regime({**dice, "personalised": much}) == "finetuned"
    assert choose_regime({**dice, "personalised": much, "finetuned": much}) == "local2x"


def test_what_is_not_shown_is_not_assumed() -> None:
    """In the mean nothing is lost, but some patients lose a tenth."""
    unsure = moved(-0.1, 0.1)
    assert (
        choose_regime({"personalised": unsure, "finetuned": unsure, "local2x": LOCAL}) == "local2x"
    )


@pytest.mark.parametrize("patients", [0, 1, 6])
def test_with_few_patients_the_hospitals_own_model_is_kept(patients: int) -> None:
    few = dict(list(LOCAL.items())[:patients])
    better = {patient: dice + 0.1 for patient, dice in few.items()}
    assert loss_probability(better, few) is None
    assert choose_regime({"personalised": better, "finetuned": better, "local2x": few}) == "local2x"


def test_fewer_patients_never_make_the_rule_laxer() -> None:
    """A true loss of .03, patients' standard deviation .08: it is over the margin everywhere."""
    kept = {}
    for patients in (3, 6, 7, 12, 40):
        random = np.random.default_rng(patients)
        drawn = (random.normal(-0.03, 0.08, patients) for _ in range(300))
        found = [
            loss_probability(dict(enumerate(apart)), dict.fromkeys(range(patients), 0.0))
            for apart in drawn
        ]
        kept[patients] = np.mean([one is not None and one <= 0.05 for one in found])
    assert kept[3] == kept[6] == 0
    assert max(kept.values()) <= 0.06


def test_a_patient_that_only_one_model_was_measured_on_is_left_out() -> None:
    """As with an empty reference: right is no measurement, so that there is no difference."""
    alarmed = {**moved(0.0), 50: 0.0}
    assert (
        choose_regime({"personalised": alarmed, "finetuned": LOCAL, "local2x": LOCAL})
        == "personalised"
    )
