"""When a prompt has enough: the rules of the papers, and our own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.stopping import DONE, DROP, SAMPLE_MORE, STOPPINGS, SlotTallies
from sampler_service.curriculum.stopping.best_first import BestFirst
from sampler_service.curriculum.stopping.pilot import Pilot
from sampler_service.curriculum.stopping.positives import Positives
from sampler_service.curriculum.stopping.requeue import Requeue
from sampler_service.curriculum.stopping.screen import Screen
from sampler_service.curriculum.stopping.tiers import Tiers
from sampler_service.curriculum.stopping.variance_floor import VarianceFloor
from sampler_service.curriculum.stopping.zero_variance import ZeroVariance


def tallies(right: list[int], wrong: list[int], rounds: list[int] | int = 1, **columns: Any) -> SlotTallies:
    positives, negatives = np.array(right), np.array(wrong)
    count = len(positives)
    defaults: dict[str, Any] = {
        "granted": positives + negatives,
        "all_equal": (positives == 0) | (negatives == 0),
        "rounds": np.broadcast_to(np.array(rounds), (count,)),
        "expected_variances": np.full(count, 0.2),
        "uniforms": np.full(count, 0.5),
    }
    return SlotTallies(positives=positives, negatives=negatives, **{**defaults, **columns})


EIGHTS = np.full(6, 8, dtype=np.int32)


def test_positives_goes_on_until_one_is_right_or_the_rounds_are_over() -> None:
    decision = Positives().decide(tallies([0, 1, 0], [8, 7, 32], [1, 1, 4]))
    assert decision.actions.tolist() == [SAMPLE_MORE, DONE, DONE]
    assert decision.rollouts.tolist() == [8, 0, 0]
    assert Positives().most_rollouts(EIGHTS) == 6 * 32


@pytest.mark.parametrize(("name", "mean"), [("balanced", 0.1321), ("positives", 0.1297)])
def test_a_stopped_pools_mean_is_biased(name: str, mean: float) -> None:
    """At p = .1: why raw counts, and not the means of stopped pools, feed the posterior."""
    rule, p = STOPPINGS.parse(name, "stopping"), 0.1
    open_, total = {0: 1.0}, 0.0  # right rollouts so far: probability of being there
    for rounds in range(1, 5):
        following: dict[int, float] = {}
        for before, weight in open_.items():
            for k in range(9):
                right, n = before + k, 8 * rounds
                chance = weight * float(binom.pmf(k, 8, p))
                if rule.decide(tallies([right], [n - right], rounds)).actions[0] == SAMPLE_MORE:
                    following[right] = following.get(right, 0.0) + chance
                else:
                    total += chance * right / n
        open_ = following
    assert not open_
    assert total == pytest.approx(mean, abs=5e-5)


def test_tiers_spend_more_on_the_unsolved_only() -> None:
    decision = Tiers().decide(tallies([0, 1, 0, 0], [4, 3, 36, 292], [1, 1, 2, 3]))
    assert decision.actions.tolist() == [SAMPLE_MORE, DONE, SAMPLE_MORE, DONE]
    assert decision.rollouts.tolist() == [32, 0, 256, 0]
    assert Tiers().first_round(EIGHTS).tolist() == [4] * 6


def test_screen_goes_on_iff_strictly_between() -> None:
    decision = Screen().decide(tallies([0, 4, 1, 5], [4, 0, 3, 19], [1, 1, 1, 2]))
    assert decision.actions.tolist() == [DROP, DROP, SAMPLE_MORE, DONE]
    assert decision.rollouts.tolist() == [0, 0, 20, 0]
    # Trained on: all of the 24.
    assert (decision.keep_positives + decision.keep_negatives).tolist() == [0, 0, 4, 24]


def test_pilot_commits_within_the_band_while_the_pilot_is_fresh() -> None:
    right = [1, 2, 8, 12, 13, 30]
    wrong = [15, 14, 8, 4, 3, 34]
    rounds = [1, 1, 1, 1, 1, 2]
    decision = Pilot().decide(tallies(right, wrong, rounds))
    assert decision.actions.tolist() == [DROP, SAMPLE_MORE, SAMPLE_MORE, SAMPLE_MORE, DROP, DONE]
    assert decision.rollouts.tolist() == [0, 48, 48, 48, 0, 0]
    assert decision.unfunded == DROP
    assert decision.priorities is not None
    assert decision.priorities.argmax() in (2, 5)
    stale = Pilot().decide(tallies(right, wrong, rounds, steps_since_grant=5))
    assert stale.actions.tolist() == [DROP] * 5 + [DONE]


def test_pilot_draws_three_candidates_and_budgets_for_one() -> None:
    assert Pilot().candidate_factor == 3.0
    assert Pilot().most_rollouts(EIGHTS) == 6 * 16 + 2 * 48


def test_best_first_asks_for_everybody_and_ranks_by_expected_variance() -> None:
    variances = np.array([0.1, 0.2, 0.15])
    decision = BestFirst().decide(tallies([0, 2, 4], [4, 2, 0], expected_variances=variances))
    assert decision.actions.tolist() == [SAMPLE_MORE] * 3
    assert decision.priorities is variances
    # Not funded is not wasted: a pilot is trained on.
    assert decision.unfunded == DONE
    assert decision.keep_positives.tolist() == [0, 2, 4]
    assert BestFirst().decide(tallies([3], [9], 2)).actions.tolist() == [DONE]


def test_best_first_spends_what_plain_groups_would() -> None:
    forty = BestFirst().first_round(np.full(40, 8, dtype=np.int32))
    assert forty.sum() == 160
    assert BestFirst().most_rollouts(forty) == 32 * 8


def test_zero_variance_drops_groups_whose_rewards_are_exactly_equal() -> None:
    # All above the threshold, yet not equal: graded rewards still have a gradient.
    decision = ZeroVariance().decide(
        tallies([8, 0, 3, 8], [0, 8, 5, 0], all_equal=np.array([True, True, False, False]))
    )
    assert decision.actions.tolist() == [DROP, DROP, DONE, DONE]
    assert decision.keep_positives.tolist() == [0, 0, 3, 8]


def test_variance_floor_follows_the_schedule_of_kappa() -> None:
    early = VarianceFloor().decide(tallies([0, 1, 2, 3], [8, 7, 6, 5], policy_step=19))
    late = VarianceFloor().decide(tallies([0, 1, 2, 3], [8, 7, 6, 5], policy_step=20))
    assert early.actions.tolist() == [DROP, DONE, DONE, DONE]
    assert late.actions.tolist() == [DROP, DROP, DROP, DONE]


def test_requeue_tries_the_unsolved_again_by_chance_and_drops_the_solved() -> None:
    decision = Requeue().decide(
        tallies([0, 0, 8, 3, 0], [8, 8, 0, 5, 32], [1, 1, 1, 1, 4], uniforms=np.array([0.74, 0.75, 0, 0, 0]))
    )
    assert decision.actions.tolist() == [SAMPLE_MORE, DROP, DROP, DONE, DROP]
    assert decision.rollouts.tolist() == [8, 0, 0, 0, 0]


@pytest.mark.parametrize("name", list(STOPPINGS))
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_every_rule_ends_within_its_most_and_keeps_no_more_than_it_has(name: str, p: float) -> None:
    stopping = STOPPINGS.parse(name, "stopping")
    generator = np.random.default_rng(3)
    quotas = np.full(24, 8, dtype=np.int32)
    granted = stopping.first_round(quotas).astype(np.int64)
    right, rounds, open_ = np.zeros(24, dtype=np.int64), np.ones(24, dtype=np.int64), np.ones(24, dtype=bool)
    fresh = granted.copy()
    for _ in range(300):
        right[open_] += generator.binomial(fresh[open_], p)
        slots = np.flatnonzero(open_)
        decision = stopping.decide(
            tallies(
                right[slots].tolist(),
                (granted - right)[slots].tolist(),
                rounds[slots].tolist(),
                uniforms=generator.random(len(slots)),
            )
        )
        assert (decision.keep_positives <= right[slots]).all()
        assert (decision.keep_negatives <= (granted - right)[slots]).all()
        assert ((decision.rollouts > 0) == (decision.actions == SAMPLE_MORE)).all()
        more = decision.actions == SAMPLE_MORE
        open_[slots[~more]] = False
        fresh = np.zeros(24, dtype=np.int64)
        fresh[slots] = decision.rollouts
        granted += fresh
        rounds[slots[more]] += 1
        if not open_.any():
            return
    pytest.fail(f"{name} never ends")


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"positives": {"wanted": 0}}, "stopping.positives.wanted"),
        ({"tiers": {"sizes": []}}, "stopping.tiers.sizes"),
        ({"tiers": {"sizes": [4, 0]}}, "stopping.tiers.sizes"),
        ({"screen": {"initial": 1}}, "stopping.screen.initial"),
        ({"pilot": {"low": 0.8, "high": 0.2}}, "stopping.pilot"),
        ({"pilot": {"candidates": 0.5}}, "stopping.pilot.candidates"),
        ({"best_first": {"pilot": 0}}, "stopping.best_first.pilot"),
        ({"requeue": {"probability": 1.0}}, "stopping.requeue.probability"),
        ({"zero_variance": {"max_gen_rounds": 0}}, "stopping.zero_variance.max_gen_rounds"),
        ({"variance_floor": {"threshold": 1.1}}, "stopping.variance_floor.threshold"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        STOPPINGS.parse(part, "stopping")
    assert refusal.value.field == field
