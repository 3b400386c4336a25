"""When a prompt has enough: one_shot and balanced. Rules that came later are in test_stopping_rules.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.stopping import DONE, SAMPLE_MORE, STOPPINGS, SlotTallies, Stopping
from sampler_service.curriculum.stopping.balanced import keep_balanced


def tallies(positives: list[int], negatives: list[int], **columns: Any) -> SlotTallies:
    """Slots with 0/1 rewards, everything granted come back."""
    right, wrong = np.array(positives), np.array(negatives)
    count = len(right)
    defaults: dict[str, Any] = {
        "granted": right + wrong,
        "all_equal": (right == 0) | (wrong == 0),
        "rounds": np.ones(count, dtype=int),
        "expected_variances": np.full(count, 0.2),
        "uniforms": np.full(count, 0.5),
    }
    return SlotTallies(positives=right, negatives=wrong, **{**defaults, **columns})


def test_one_shot_is_done_and_keeps_everything() -> None:
    decision = STOPPINGS.parse("one_shot", "stopping").decide(tallies([3, 0], [5, 8]))
    assert decision.actions.tolist() == [DONE, DONE]
    assert decision.rollouts.tolist() == [0, 0]
    assert decision.keep_positives.tolist() == [3, 0]
    assert decision.keep_negatives.tolist() == [5, 8]


def test_one_shot_grants_the_quota_at_once() -> None:
    stopping = STOPPINGS.parse("one_shot", "stopping")
    quotas = np.array([3, 9], dtype=np.int32)
    assert stopping.first_round(quotas).tolist() == [3, 9]
    assert stopping.most_rollouts(quotas) == 12


@pytest.mark.parametrize(
    ("pool", "kept"), [((2, 6), (2, 2)), ((8, 0), (4, 0)), ((1, 7), (1, 3)), ((0, 0), (0, 0))]
)
def test_balanced_keeps_the_stated_rollouts(pool: tuple[int, int], kept: tuple[int, int]) -> None:
    right, wrong = keep_balanced(np.array([pool[0]]), np.array([pool[1]]), 4)
    assert (right[0], wrong[0]) == kept


def test_balanced_asks_for_a_round_while_a_side_is_short_and_rollouts_are_left() -> None:
    stopping = STOPPINGS.parse({"balanced": {"round": 8, "keep": 4, "max": 20}}, "stopping")
    decision = stopping.decide(tallies([2, 1, 0, 1, 0], [6, 7, 8, 15, 20]))
    assert decision.actions.tolist() == [DONE, SAMPLE_MORE, SAMPLE_MORE, SAMPLE_MORE, DONE]
    # The last round is cut to what is left of `max`.
    assert decision.rollouts.tolist() == [0, 8, 8, 4, 0]


def expected_cost(stopping: Stopping, p: float) -> float:
    """Mean rollouts of a prompt at pass rate p, by following every outcome of every round."""
    first = int(stopping.first_round(np.array([8], dtype=np.int32))[0])
    open_ = {(0, 0, 0): (1.0, first)}  # (right, wrong, rounds): (probability, rollouts granted next)
    cost = 0.0
    while open_:
        following: dict[tuple[int, int, int], tuple[float, int]] = {}
        for (right, wrong, rounds), (weight, n) in open_.items():
            cost += weight * n
            for k in range(n + 1):
                state = (right + k, wrong + n - k, rounds + 1)
                decision = stopping.decide(tallies([state[0]], [state[1]], rounds=np.array([rounds + 1])))
                if decision.actions[0] == SAMPLE_MORE:
                    old = following.get(state, (0.0, 0))[0]
                    following[state] = (old + weight * binom.pmf(k, n, p), int(decision.rollouts[0]))
        open_ = following
    return cost


@pytest.mark.parametrize(
    ("p", "cost"), [(0.01, 31.700), (0.1, 20.96), (0.5, 8.567), (0.9, 20.96), (0.99, 31.700)]
)
def test_balanced_costs_what_it_should(p: float, cost: float) -> None:
    assert expected_cost(STOPPINGS.parse("balanced", "stopping"), p) == pytest.approx(cost, rel=2e-4)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"balanced": {"keep": 64, "max": 32}}, "stopping.balanced"),
        ({"balanced": {"round": 0}}, "stopping.balanced.round"),
        ({"balanced": {"rounds": 3}}, "stopping.balanced.rounds"),
        ("soon", "stopping"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        STOPPINGS.parse(part, "stopping")
    assert refusal.value.field == field
