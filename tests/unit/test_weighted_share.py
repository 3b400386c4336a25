"""The estimate from weighted groups: what a shadow's choices would have come to, from batches it did not choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.machine import create_state
from sampler_service.curriculum.replay import RecordedEvent, replay
from sampler_service.curriculum.shadow import StrategyFigures, inclusion_probabilities
from sampler_service.curriculum.strategy import resolve
from sampler_service.curriculum.weighted_pool import WeightedPool
from sampler_service.replica.shadow_answers import strategy_message
from tests.curriculum_runs import Run

RATES = np.linspace(0.0, 0.6, 200)
REFERENCES = RATES.astype(np.float32)


def message_of(one: StrategyFigures) -> pb.StrategyReplay:
    return strategy_message(
        one.name, one.estimator, one.sums(), one.scores.bins, one.scores.spearman(), one.scores.window_groups
    )


def beside(
    served: str,
    shadow: str,
    steps: int = 40,
    served_parts: Mapping[str, object] = MappingProxyType({}),
    **shadow_parts: object,
) -> pb.StrategyReplay:
    run = Run(served, {"exploration": 0.0, **served_parts})
    run.add(len(RATES), references=REFERENCES)
    for step in range(steps):
        run.step(RATES, 24, 24 * 8, step)
        run.advance(step + 1)
    events = [RecordedEvent(event, f"{i}-0", 1000 * i) for i, event in enumerate(run.log, 1)]
    base = create_state(events[0].event, "1-0", 1000)
    strategies = {"shadow": resolve(shadow, dict(shadow_parts))}
    return message_of(replay(base, events[1:], strategies, most_compared=steps).strategies[1])


def test_a_prompt_is_drawn_as_often_as_the_race_says() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(60) ** 6
    pool, draws, often = WeightedPool(weights), 4000, np.zeros(60)
    expected = np.zeros(60)
    for _ in range(draws):
        drawn = pool.draw(20, rng)
        often[drawn.rows_B] += 1
        expected += inclusion_probabilities(weights / weights.sum(), drawn.probabilities_B)
    assert np.abs(often - expected).max() / draws < 0.05
    assert expected.sum() / draws == pytest.approx(20, rel=0.03)


def test_what_a_shadow_would_see_is_estimated_from_uniform_batches() -> None:
    found = beside("uniform-grpo", "hard-examples", exploration=0.0)
    hardest = RATES[:20]
    truth = float((1 - hardest**8 - (1 - hardest) ** 8).mean())
    assert found.weighted_support == pytest.approx(1.0, abs=0.2)
    assert found.weighted_mixed_share == pytest.approx(truth, abs=0.08)
    everywhere = float((1 - RATES**8 - (1 - RATES) ** 8).mean())
    assert abs(found.weighted_mixed_share - everywhere) > 0.3, "nothing like what was served"


@pytest.mark.parametrize("shadow", ["cures", "gvm", "frontier", "uniform-grpo"])
def test_the_weights_of_what_was_served_add_up_to_what_the_shadow_chooses(shadow: str) -> None:
    found = beside("uniform-grpo", shadow)
    assert found.weighted_support == pytest.approx(1.0, abs=0.2)
    assert found.weighted_groups > 30


def test_a_shadow_that_takes_the_best_scores_is_estimated_from_its_own_draws() -> None:
    found = beside("uniform-grpo", "learnability", steps=80)
    assert found.weighted_support == pytest.approx(1.0, abs=0.25)


def test_nothing_is_claimed_when_the_served_batches_do_not_hold_what_it_would_choose() -> None:
    sharp = {"proposal": {"cures": {"temperature": 0.01}}}
    found = beside("uniform-grpo", "uniform-grpo", served_parts=sharp)
    assert found.weighted_support < 0.8
    assert math.isnan(found.weighted_mixed_share)


def test_nothing_is_claimed_when_the_strategy_in_force_takes_the_best_scores() -> None:
    found = beside("mopps", "uniform-grpo")
    assert (found.weighted_groups, found.shared_groups > 0) == (0.0, True)
    assert math.isnan(found.weighted_mixed_share)
