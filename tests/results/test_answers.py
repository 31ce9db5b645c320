"""What a hospital reads first: what it would keep, what that gains, at what risk."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from hyfree_ray.results.answers import Answer, answers, format_attack
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.summary import SiteOutcome
from hyfree_ray.results.table import table_text
from tests.cards import card
from tests.results.test_results import OUTCOMES, row, whole_run

KEPT = {"a": "personalised", "b": "local2x", "c": "personalised"}


def chosen_outcomes() -> list[SiteOutcome]:
    return [replace(one, chosen=KEPT[one.site], attack="AUC 0.52") for one in OUTCOMES]


def test_without_a_choice_the_papers_recipe_is_what_a_site_would_keep() -> None:
    found = summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, seed=0)
    adopted, told = answers(OUTCOMES, found.contrasts)
    assert adopted == "finetuned"
    assert [(one.site, one.shares, one.keeps) for one in told] == [
        ("a", "400 images", "finetuned"),
        ("b", "150 images", "finetuned"),
        ("c", "withheld", "finetuned"),
    ]
    first = told[0]
    assert first.own is not None
    assert first.foreign is not None
    assert (first.own.verdict, first.foreign.verdict) == ("helped", "worse")


def test_a_site_that_keeps_its_own_model_sees_no_change() -> None:
    rows = list(whole_run())
    regime_of = {
        site: "local2x" if kept == "local2x" else "finetuned" for site, kept in KEPT.items()
    }
    chosen = [
        replace(one, regime="chosen") for one in rows if one.regime == regime_of.get(one.train_site)
    ]
    found = summarise("r", chain(rows, chosen), counts={}, outcomes=chosen_outcomes(), seed=0)
    adopted, told = answers(chosen_outcomes(), found.contrasts)
    assert adopted == "chosen"
    kept = {one.site: one for one in told}
    assert kept["b"].own is not None
    assert kept["b"].own.describe() == "no change"
    assert kept["a"].own is not None
    assert kept["a"].own.describe() == "helped"
    text = table_text(found)
    lines = text[text.index("Would sharing help?") :].splitlines()
    assert lines[5].split() == ["b", "local2x", "no", "change", "no", "change", "AUC", "0.52"]


def test_without_a_general_model_nothing_is_kept() -> None:
    rows = [row("local2x", site, site, patient, 0, 0.5) for site in "abc" for patient in range(3)]
    found = summarise("r", rows, counts={}, outcomes=OUTCOMES, seed=0)
    _, told = answers(OUTCOMES, found.contrasts)
    assert told[0] == Answer(
        site="a", shares="400 images", keeps="-", own=None, foreign=None, attack="-"
    )


GONE = ("failed", "late", "withdrawn")


@pytest.mark.parametrize("outcome", GONE)
@pytest.mark.parametrize("adopted", ["chosen", "finetuned"])
def test_a_site_that_is_not_in_the_round_keeps_nothing(adopted: str, outcome: Any) -> None:
    """It has no model but its own, and no line may name one that is no model at all."""
    rows = [one for one in whole_run() if (one.regime, one.train_site) != ("finetuned", "c")]
    outcomes = [*OUTCOMES[:2], replace(OUTCOMES[2], outcome=outcome)]
    if adopted == "chosen":
        rows += [replace(one, regime="chosen") for one in rows if one.regime == "finetuned"]
        outcomes[:2] = [replace(one, chosen="finetuned") for one in outcomes[:2]]
    found = summarise("r", rows, counts={}, outcomes=outcomes, seed=0)
    spoken_of, told = answers(outcomes, found.contrasts)
    assert spoken_of == adopted
    assert [(one.site, one.keeps) for one in told] == [
        ("a", "finetuned"),
        ("b", "finetuned"),
        ("c", "-"),
    ]
    assert (told[2].own, told[2].foreign) == (None, None)


@pytest.mark.parametrize("outcome", GONE)
def test_of_several_runs_a_site_keeps_a_model_in_those_that_it_was_in(outcome: Any) -> None:
    found = summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, seed=0)
    outcomes = [OUTCOMES[0], replace(OUTCOMES[0], outcome=outcome), OUTCOMES[0]]
    _, told = answers(outcomes, found.contrasts)
    assert told[0].keeps == "finetuned (2x), -"


def test_a_choice_that_was_not_made_is_no_regime() -> None:
    """Others chose; what this one would keep is not known, and it was not compared."""
    rows = list(whole_run())
    rows += [
        replace(one, regime="chosen")
        for one in rows
        if one.regime == "finetuned" and one.train_site != "b"
    ]
    outcomes = [replace(one, chosen="" if one.site == "b" else "finetuned") for one in OUTCOMES]
    found = summarise("r", rows, counts={}, outcomes=outcomes, seed=0)
    _, told = answers(outcomes, found.contrasts)
    assert [one.keeps for one in told] == ["finetuned", "-", "finetuned"]


def test_several_runs_say_how_often_what_was_kept() -> None:
    found = summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, seed=0)
    outcomes = [
        SiteOutcome(site="a", outcome="released", images=images, rejection_rate=0.0, chosen=kept)
        for images, kept in ((300, "personalised"), (300, "local2x"), (280, "personalised"))
    ]
    _, told = answers(outcomes, found.contrasts)
    assert (told[0].shares, told[0].keeps) == (
        "300 images (2x), 280 images",
        "personalised (2x), local2x",
    )


def test_the_strongest_attack_is_told_beside_what_chance_finds() -> None:
    said = "AUC 0.55, by chance up to 0.63; 97% of altered copies stopped"
    assert format_attack({"card": card()}) == said
    bound = {"pairs": 9, "at_least": 0.0, "visible": 0.93}
    assert format_attack({"card": card(epsilon_bound=bound)}) == (
        f"{said}; epsilon at least 0.0 of 0.9 visible"
    )
    none = {"measurable": False, "reason": "nobody", "members": 9, "held_out": 0}
    alone = {"attacks": none, "concentration": None}
    assert format_attack({"card": card(findings=alone)}).startswith("not measurable; 97%")
    assert format_attack({"card": None}) == ""
    assert format_attack(None) == ""
