"""What a hospital is told: one sentence, what it stands on, and how often the rule errs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hyfree_ray.config.budget import Budget, budget_values
from hyfree_ray.evaluation.choice import MARGIN
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.contrasts import estimate
from hyfree_ray.results.planning import GAIN, POWER, patients_to_show
from hyfree_ray.results.risk import attack_succeeds, format_attack
from hyfree_ray.results.summary import Summary
from hyfree_ray.results.table import table_text
from hyfree_ray.results.verdicts import Advice, Evidence, advise, percent
from tests.cards import card
from tests.results.test_results import OUTCOMES, row, whole_run

SHARE: Advice = "share and take part"
TAKE_PART: Advice = "take part, keep your own model at home"
NOT_WORTH: Advice = "not worth it on this evidence"
CANNOT_SAY: Advice = "not enough patients to say"


def evidence(
    home: float,
    elsewhere: float,
    patients: int = 60,
    *,
    sd: float = 0.02,
    seed: int = 0,
    at_risk: bool = False,
) -> Evidence:
    """Of patients who differ normally, four times as many elsewhere as at home."""
    random = np.random.default_rng(seed)
    drawn = [random.normal(home, sd, patients), random.normal(elsewhere, sd, 4 * patients)]
    own, away = (estimate("shared", "control", "s", "own", [values]) for values in drawn)
    over = [one.probability_below(MARGIN) for one in (own, away)]
    return Evidence(
        home=own.contrast(share=0.5),
        elsewhere=away.contrast(share=0.5),
        loss_at_home=own.probability_below(-MARGIN),
        gain_at_home=None if over[0] is None else 1 - over[0],
        gain_elsewhere=None if over[1] is None else 1 - over[1],
        at_risk=at_risk,
    )


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (evidence(0.0, 0.05), SHARE),
        (evidence(0.05, 0.0), SHARE),
        (evidence(-0.05, 0.05), TAKE_PART),
        (evidence(0.0, 0.05, at_risk=True), TAKE_PART),
        (evidence(0.0, 0.0), NOT_WORTH),
        (evidence(-0.05, -0.05), NOT_WORTH),
        (evidence(0.05, 0.0, at_risk=True), NOT_WORTH),
        (evidence(0.0, 0.05, 7, sd=0.3), CANNOT_SAY),
        (evidence(0.0, 0.0, 5), CANNOT_SAY),
    ],
)
def test_the_advice_follows_its_rule(found: Evidence, advice: Advice) -> None:
    said, false = advise(found)
    assert said == advice
    assert (false is None) == (advice == CANNOT_SAY or (found.at_risk and advice == NOT_WORTH))
    assert false is None or false <= 0.1


def test_where_nothing_is_gained_hardly_anybody_is_told_to_share() -> None:
    for patients, sd in ((7, 0.05), (12, 0.05), (50, 0.02)):
        told = [advise(evidence(0.0, 0.0, patients, sd=sd, seed=k))[0] for k in range(120)]
        assert np.mean([one in {SHARE, TAKE_PART} for one in told]) <= 0.06


def test_a_gain_that_is_large_is_mostly_found() -> None:
    told = [advise(evidence(0.0, 0.05, 50, sd=0.05, seed=k))[0] for k in range(60)]
    assert np.mean([one == SHARE for one in told]) > 0.6
    assert np.mean([one in {SHARE, TAKE_PART} for one in told]) > 0.95


def found(**more: Any) -> Summary:
    return summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, **more)


def test_every_hospital_is_told_one_sentence_with_all_that_it_stands_on() -> None:
    summary = found()
    assert [one.site for one in summary.verdicts] == ["a", "b", "c"]
    first = summary.verdicts[0]
    assert (first.advice, first.model) == (SHARE, "finetuned")
    assert first.home is not None
    assert first.home in summary.contrasts, "it has the interval of its row in the table"
    for part in ("a: share and take part", "at home +.", "elsewhere -.", "400 images", "risk: "):
        assert part in first.sentence
    assert first.home.describe_losses() in first.sentence
    assert summary.verdicts[2].advice != SHARE, "it released nothing"
    assert next(iter(summary.to_json())) == "verdicts"


def test_the_verdicts_are_the_last_thing_in_the_terminal() -> None:
    for width in (80, 100):
        text = table_text(found(), width=width)
        told = " ".join(text[text.index("Would sharing help?") :].split())
        assert told.startswith("Would sharing help? a: share and take part")
        assert told.endswith(f"{found().verdicts[-1].sentence}.")


def test_the_question_is_the_same_whatever_the_scores_are() -> None:
    rows = list(whole_run())
    rows += [replace(one, regime="personalised") for one in rows if one.regime == "finetuned"]
    rows += [replace(one, regime="chosen") for one in rows if one.regime == "local2x"]
    summary = summarise("r", rows, counts={}, outcomes=OUTCOMES)
    assert {one.model for one in summary.verdicts} == {"personalised"}
    stated = {one.first for one in summary.contrasts if one.family == "stated before"}
    assert stated == {"personalised"}


def test_without_a_general_model_nothing_is_advised() -> None:
    rows = [row("local2x", site, site, patient, 0, 0.5) for site in "abc" for patient in range(9)]
    told = summarise("r", rows, counts={}, outcomes=OUTCOMES).verdicts
    assert {(one.advice, one.model, one.home) for one in told} == {(CANNOT_SAY, "", None)}


def test_models_that_learned_nothing_are_not_unchanged() -> None:
    rows = [replace(one, value=0.0) for one in whole_run()]
    summary = summarise("r", rows, counts={}, outcomes=OUTCOMES)
    said = {one.describe() for one in summary.contrasts if one.first == "finetuned"}
    assert said == {"cannot tell (every Dice of finetuned and local2x is 0)"}
    assert {one.advice for one in summary.verdicts} == {CANNOT_SAY}


def test_a_smoke_run_has_a_banner_over_every_number_and_no_verdict() -> None:
    warnings = [Budget(**budget_values(name)).warning for name in ("smoke", "small", "paper")]
    assert [bool(warning) for warning in warnings] == [True, False, False]
    summary = found(warning=warnings[0])
    assert {one.advice for one in summary.verdicts} == {"no verdict"}
    text = table_text(summary)
    titles = sum(line.startswith(("Dice ", "The question", "HD95")) for line in text.splitlines())
    assert text.count("NOT A RESULT") > titles
    assert "NOT A RESULT" not in table_text(found())


def test_of_several_runs_it_is_said_how_often() -> None:
    outcomes = [
        replace(OUTCOMES[0], images=n, chosen=kept) for n, kept in ((3, "local2x"), (4, ""))
    ]
    told = summarise("r", whole_run(), counts={}, outcomes=outcomes).verdicts
    assert [(one.shares, one.keeps) for one in told] == [("3 images, 4 images", "local2x, -")]


@pytest.mark.parametrize("sd", [0.1, 0.15])
def test_as_many_patients_as_planned_show_the_gain(sd: float) -> None:
    random = np.random.default_rng(3)
    noise = estimate("a", "b", "s", "own", [random.normal(0, sd, 40)]).noise
    assert noise is not None
    planned = patients_to_show(noise, 40, 1.0)
    assert planned is not None
    middle = int(np.sqrt(planned.fewest * planned.most))
    shown = [
        (estimate("a", "b", "s", "own", [random.normal(GAIN, sd, middle)]).contrast().low or 0) > 0
        for _ in range(200)
    ]
    assert POWER - 0.25 < np.mean(shown) <= 1.0
    assert planned.most > 1.3 * planned.fewest


def test_probabilities_are_never_said_to_be_nought() -> None:
    assert [percent(p) for p in (0.0, 0.004, 0.011, 0.5, 0.999)] == [
        "under 1 %", "under 1 %", "2 %", "50 %", "over 99 %",
    ]  # fmt: skip


def test_the_risk_is_told_beside_what_chance_finds() -> None:
    said = "AUC 0.55, by chance up to 0.63; 97% of altered copies stopped"
    assert format_attack({"card": card()}) == said
    assert not attack_succeeds({"card": card()})
    bound = {"pairs": 9, "at_least": 0.0, "visible": 0.93}
    assert format_attack({"card": card(epsilon_bound=bound)}) == (
        f"{said}; epsilon at least 0.0 of 0.9 visible"
    )
    none = {"measurable": False, "reason": "nobody", "members": 9, "held_out": 0}
    alone = {"attacks": none, "concentration": None}
    assert format_attack({"card": card(findings=alone)}).startswith("not measurable; 97%")
    found = {"measurable": True, "members": 90, "held_out": 30, "auc": 0.8, "chance": 0.63}
    assert attack_succeeds({"card": card(findings={"attacks": found, "concentration": None})})
    assert format_attack({"card": None}) == format_attack(None) == ""
    assert not attack_succeeds(None)
