"""Whether a structure was not learned because the general model was trained too short for it."""

from __future__ import annotations

import pytest

from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.scores import ScoreRow
from hyfree_ray.results.answer import render_answer
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.learned import describe_unlearned, unlearned
from hyfree_ray.results.table import table_text
from tests.results.test_results import OUTCOMES, whole_run


def scored(regime: str, train_site: str, **dice: float) -> list[ScoreRow]:
    return [
        ScoreRow(
            run="r", round=1, seed=0, fold=0, regime=regime, train_site=train_site, test_site=site,
            patient=0, case=0, label=label, metric="dice", value=value,
        )
        for site in ("a", "b")
        for label, value in dice.items()
    ]  # fmt: skip


def test_what_hospitals_find_and_the_general_model_does_not_is_named() -> None:
    """As on the brain phantom, where 750 batches taught oedema alone."""
    rows = [
        *scored("general", POOL, oedema=0.4, core=0.0, necrosis=0.01, spot=0.0),
        *scored("local2x", "a", oedema=0.8, core=0.7, necrosis=0.0, spot=0.1),
        *scored("local2x", "b", oedema=0.6, core=0.0, necrosis=0.3, spot=0.1),
    ]
    assert unlearned(rows) == ("core", "necrosis")
    assert "budget.unet.epochs=120" in describe_unlearned(unlearned(rows), 30)


@pytest.mark.parametrize("general", [0.3, 0.03])
def test_nothing_is_said_where_every_structure_was_found(general: float) -> None:
    rows = [*scored("general", POOL, lesion=general), *scored("local2x", "a", lesion=0.9)]
    assert unlearned(rows) == ()
    assert describe_unlearned(unlearned(rows), 30) == ""


def test_the_last_screen_says_it() -> None:
    said = describe_unlearned(["core"], 30)
    answer = render_answer(
        summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, too_short=said)
    )
    assert "--set budget.unet.epochs=120" in " ".join(table_text(answer, width=100).split())
