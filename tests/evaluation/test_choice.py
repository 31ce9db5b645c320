from __future__ import annotations

from hyfree_ray.evaluation.choice import choose_regime

LOCAL = {1: 0.80, 2: 0.70, 3: 0.90, 4: 0.60}


def _moved(*changes: float) -> dict[int, float]:
    return {
        patient: dice + change
        for (patient, dice), change in zip(LOCAL.items(), changes, strict=True)
    }


def test_what_travels_best_is_chosen_where_it_is_no_worse() -> None:
    same = _moved(0.0, 0.0, 0.0, 0.0)
    assert (
        choose_regime({"personalised": same, "finetuned": same, "local2x": LOCAL}) == "personalised"
    )


def test_a_loss_of_less_than_half_a_hundredth_is_taken_whatever_its_error() -> None:
    little, much = _moved(*[-0.004] * 4), _moved(*[-0.006] * 4)
    assert (
        choose_regime({"personalised": little, "finetuned": LOCAL, "local2x": LOCAL})
        == "personalised"
    )
    assert (
        choose_regime({"personalised": much, "finetuned": LOCAL, "local2x": LOCAL}) == "finetuned"
    )
    assert choose_regime({"personalised": much, "finetuned": much, "local2x": LOCAL}) == "local2x"


def test_a_loss_within_one_standard_error_is_taken() -> None:
    # Mean -0.01, standard deviations 0.0231 and 0.0163: standard errors 0.0115 and 0.0082.
    within, beyond = _moved(-0.03, -0.03, 0.01, 0.01), _moved(-0.03, -0.01, -0.01, 0.01)
    assert (
        choose_regime({"personalised": within, "finetuned": LOCAL, "local2x": LOCAL})
        == "personalised"
    )
    assert (
        choose_regime({"personalised": beyond, "finetuned": LOCAL, "local2x": LOCAL}) == "finetuned"
    )


def test_one_patient_tells_no_error() -> None:
    one = {1: 0.80}
    assert (
        choose_regime({"personalised": {1: 0.78}, "finetuned": one, "local2x": one}) == "finetuned"
    )


def test_a_patient_that_only_one_model_was_measured_on_counts_for_the_mean() -> None:
    """As with an empty reference: right is no measurement, a false alarm is a Dice of 0."""
    alarmed = {**LOCAL, 5: 0.0}
    assert (
        choose_regime({"personalised": alarmed, "finetuned": LOCAL, "local2x": LOCAL})
        == "finetuned"
    )
