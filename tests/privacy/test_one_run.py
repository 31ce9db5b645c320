"""The lower bound of epsilon holds, and says what so few patients could have shown."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.privacy.one_run import epsilon_bound


def perfect(members: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that tell all members."""
    member_P = np.arange(members + held_out) < members
    return member_P.astype(np.float64), member_P


@pytest.mark.parametrize(
    ("members", "held_out", "visible"),
    [(9, 3, 0.0), (27, 9, 0.93), (30, 10, 1.05), (60, 20, 1.82), (80, 40, 2.55), (330, 113, 3.62)],
)
def test_as_many_pairs_can_show_so_much_at_most(
    members: int, held_out: int, visible: float
) -> None:
    found = epsilon_bound(*perfect(members, held_out))
    assert found is not None
    assert found["pairs"] == held_out
    assert found["visible"] == pytest.approx(visible, abs=0.01)
    assert found["at_least"] == found["visible"]


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_training_with_epsilon_is_seldom_said_to_have_more(epsilon: float) -> None:
    """Randomised response: the worst that a training with this epsilon may show."""
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    above = 0
    for seed in range(200):
        score_P, member_P = perfect(40, 40)
        random = np.random.default_rng(seed)
        # Which of a pair scores higher is its coin, however pairs are made: all scores differ.
        order = random.permutation(40)
        score_P = np.empty(80)
        for k, (one, other) in enumerate(zip(range(40), 40 + order, strict=True)):
            right = random.random() < truth
            score_P[one], score_P[other] = (k + 0.5, k) if right else (k, k + 0.5)
        found = epsilon_bound(score_P, member_P)
        assert found is not None
        above += found["at_least"] > epsilon
    assert above <= 20


def test_equal_scores_and_a_wrong_attack_show_nothing() -> None:
    score_P, member_P = perfect(20, 20)
    for scores in (np.zeros(40), -score_P):
        found = epsilon_bound(scores, member_P)
        assert found is not None
        assert found["at_least"] == 0


def test_with_nobody_held_out_there_is_no_pair() -> None:
    assert epsilon_bound(*perfect(20, 0)) is None
