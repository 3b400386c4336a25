"""A recorded log under other strategies: the same outcomes, other predictions, other batches."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.machine import create_state
from sampler_service.curriculum.replay import RecordedEvent, Replay, replay
from sampler_service.curriculum.shadow import mixed_probability
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

RATES = np.linspace(0.0, 1.0, 120)


def trained(preset: str = "cures", steps: int = 12, **add: object) -> Run:
    run = Run(preset)
    run.add(120, **add)  # type: ignore[arg-type]
    for step in range(steps):
        run.step(RATES, 16, 128, step)
        run.advance(step + 1)
    return run


def replayed(
    run: Run, presets: list[str], first: int = 1, most_compared: int = 64
) -> tuple[Replay, CurriculumState]:
    events = [RecordedEvent(event, f"{i}-0", 1000 * i) for i, event in enumerate(run.log, 1)]
    base = create_state(events[0].event, "1-0", 1000)
    strategies = {preset: resolve(preset, {}) for preset in presets}
    return replay(base, events[first:], strategies, most_compared=most_compared), base


def test_a_mixed_group_is_as_likely_as_it_comes_out() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(2.0, 5.0, 400_000)
    right = rng.binomial(6, p)
    drawn = ((right > 0) & (right < 6)).mean()
    (expected,) = mixed_probability(np.array([2.0]), np.array([5.0]), np.array([6.0]))
    assert expected == pytest.approx(drawn, abs=3e-3)
    assert mixed_probability(np.array([2.0]), np.array([5.0]), np.array([0.0])).tolist() == [0.0]
    (single,) = mixed_probability(np.array([2.0]), np.array([5.0]), np.array([1.0]))
    assert single == pytest.approx(0.0, abs=1e-12)


def test_the_recorded_strategy_predicts_what_was_recorded() -> None:
    run = trained()
    done, base = replayed(run, ["cures"])
    recorded, same = done.strategies
    (scored,) = run.state.history.scores.estimators.values()
    for one in (recorded, same):
        assert one.scores.predictions == scored.predictions
        assert one.scores.brier_sum == pytest.approx(scored.brier_sum, rel=1e-6)
    assert base.digest() == run.state.digest(), "the judge is the fold itself"
    assert (done.batches, done.events) == (12, len(run.log) - 1)
    assert done.mixed_groups == run.state.history.totals["mixed_groups"]


def test_every_estimator_sees_the_same_outcomes() -> None:
    run = trained("reinforce-ada-balance")
    done, _ = replayed(run, ["frontier", "uniform-grpo", "dapo", "knapsack", "vcrl"])
    assert len({one.scores.predictions for one in done.strategies}) == 1
    assert len({one.scores.groups for one in done.strategies}) == 1


def test_features_tell_an_estimator_that_reads_them_what_counts_do_not() -> None:
    run = trained("uniform-grpo", steps=20, references=RATES.astype(np.float32))
    done, _ = replayed(run, ["frontier"])
    recorded, frontier = done.strategies
    assert frontier.scores.brier_sum < recorded.scores.brier_sum
    assert frontier.scores.spearman() > recorded.scores.spearman()


def test_shares_and_overlaps_are_shares() -> None:
    done, _ = replayed(trained(), ["frontier", "uniform-grpo", "gvm"], most_compared=5)
    assert 0 < done.compared_batches <= 5
    for one in done.strategies:
        assert 0 <= one.predicted_mixed <= one.recorded_prompts
        assert 0 <= one.expected_mixed <= one.planned_prompts
        assert 0 < one.overlap_rollouts <= one.compared_rollouts
        assert 0 <= one.shared_prompts <= one.planned_prompts
    uniform = next(one for one in done.strategies if one.name == "uniform-grpo")
    recorded = done.strategies[0]
    assert recorded.overlap_rollouts / recorded.compared_rollouts > 0.95
    assert uniform.overlap_rollouts <= recorded.overlap_rollouts


def test_a_change_of_strategy_in_the_log_is_followed() -> None:
    run = trained("uniform-grpo", steps=4)
    balanced = resolve("reinforce-ada-balance", {})
    run.send(
        strategy_updated=log_pb2.StrategyUpdated(
            strategy_json=balanced.to_json(), preset="reinforce-ada-balance"
        )
    )
    for step in range(4, 9):
        run.step(RATES, 16, 256, step)
        run.advance(step + 1)
    done, base = replayed(run, ["frontier"])
    assert base.digest() == run.state.digest()
    assert len({one.scores.predictions for one in done.strategies}) == 1
    total = sum(scores.predictions for scores in run.state.history.scores.estimators.values())
    assert done.strategies[1].scores.predictions == total


def test_nothing_recorded_is_nothing_compared() -> None:
    run = Run()
    done, _ = replayed(run, ["cures"])
    assert (done.events, done.batches, done.groups) == (0, 0, 0)
    assert [one.scores.predictions for one in done.strategies] == [0, 0]
