"""Predictions are scored before their outcomes count: Brier, log loss, bins and ranks, per estimator, over time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.calibration import WINDOW, EstimatorScores, ScoreBoard, rank_correlation
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from sampler_service.replica.pool_figures import look_at_pool
from sampler_service.replica.reading import summary
from tests.curriculum_runs import Run


def told_of(state: CurriculumState) -> pb.Summary:
    return summary(state, 20, look_at_pool(state, 20))


def test_ranks_agree_with_scipy_ties_included() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted = rng.random(200).round(1)
        observed = rng.integers(0, 9, 200) / 8
        assert rank_correlation(predicted, observed) == pytest.approx(
            spearmanr(predicted, observed).statistic
        )


def test_ranks_of_a_constant_or_of_one_group_are_unknown() -> None:
    assert math.isnan(rank_correlation(np.array([0.5]), np.array([1.0])))
    assert math.isnan(rank_correlation(np.full(5, 0.5), np.arange(5) / 5))


def test_scores_by_hand() -> None:
    scores = EstimatorScores()
    scores.score(np.array([0.25, 0.8]), np.array([1, 4]), np.array([4, 4]))
    assert scores.predictions == 8
    assert scores.brier_sum == pytest.approx(0.75**2 + 3 * 0.25**2 + 4 * 0.2**2)
    assert scores.log_loss_sum == pytest.approx(-math.log(0.25) - 3 * math.log(0.75) - 4 * math.log(0.8))
    assert scores.bins[:, 2].tolist() == [4, 1.0, 1]
    assert scores.spearman() == pytest.approx(1.0)


def test_the_window_is_bounded_and_keeps_the_last_groups() -> None:
    scores = EstimatorScores()
    rng = np.random.default_rng(1)
    predicted, right = rng.random(5000), rng.integers(0, 9, 5000)
    for start in range(0, 5000, 700):
        part = slice(start, start + 700)
        scores.score(predicted[part], right[part], np.full(len(predicted[part]), 8))
    assert (scores.window_groups, scores.groups) == (WINDOW, 5000)
    expected = spearmanr(predicted[-WINDOW:].astype(np.float32), right[-WINDOW:]).statistic
    assert scores.spearman() == pytest.approx(expected)


def test_points_are_bounded_and_their_sums_stay_exact() -> None:
    scores = EstimatorScores()
    rng = np.random.default_rng(2)
    for step in range(1, 700):
        scores.score(rng.random(6), rng.integers(0, 5, 6), np.full(6, 4))
        scores.close_step(step)
    assert len(scores.series["predictions"]) < 256
    assert sum(scores.series["predictions"]) == scores.predictions
    assert sum(scores.series["brier_sum"]) == pytest.approx(scores.brier_sum)
    assert scores.series["policy_versions"] == sorted(scores.series["policy_versions"])


def test_the_longest_unused_estimator_is_forgotten_but_its_bins_count() -> None:
    board = ScoreBoard()
    for number in range(10):
        board.of(f"e{number}").score(np.array([0.5]), np.array([1]), np.array([2]))
    board.of("e2").score(np.array([0.5]), np.array([1]), np.array([2]))
    assert list(board.estimators) == [*(f"e{i}" for i in range(3, 10)), "e2"]
    assert board.bins[0].sum() == 22
    again = ScoreBoard.restore(board.export())
    assert list(again.estimators) == list(board.estimators)
    assert again.bins.tolist() == board.bins.tolist()


def run_of(steps: int, preset: str = "frontier") -> tuple[Run, np.ndarray]:  # type: ignore[type-arg]
    run, rates = Run(preset), np.linspace(0.02, 0.98, 80)
    run.add(80)
    for step in range(steps):
        run.step(rates, 16, 128, step)
        run.advance(step + 1)
    return run, rates


def test_a_batch_is_scored_for_the_estimator_that_predicted_it() -> None:
    run, rates = run_of(5)
    before = run.state.estimator_name
    plan = run.planner.plan(8, 64)
    run.grant(plan, "late", 5)
    other = resolve("cures", {})
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=other.to_json(), preset="cures"))
    after = run.state.estimator_name
    assert before != after
    assert before.startswith("item_response+")
    run.report("late", list(range(8)), [[1.0] * n for n in plan.quotas.tolist()], 5)
    assert list(run.state.history.scores.estimators) == [before]
    run.step(rates, 16, 128, 5)
    run.advance(6)
    assert list(run.state.history.scores.estimators) == [before, after]


def test_the_summary_has_scores_per_estimator_and_over_time() -> None:
    run, _ = run_of(12)
    told = told_of(run.state)
    (one,) = told.estimators
    assert (one.estimator, one.in_force) == (run.state.estimator_name, True)
    assert list(one.policy_versions) == list(range(12))
    assert len(one.briers) == len(one.log_losses) == len(one.spearmans) == 12
    assert one.calibration.brier == pytest.approx(told.calibration.brier)
    assert one.calibration.spearman == told.calibration.spearman
    # What is predicted from counts of these very prompts ranks them better than chance in the end.
    assert told.calibration.spearman > 0.2
    assert told.calibration.spearman_groups == one.calibration.spearman_groups <= WINDOW
    np.testing.assert_allclose(told.history.log_losses, one.log_losses)
    assert sum(one.predictions) == told.calibration.predictions


def test_scores_are_part_of_the_fold_and_of_snapshots() -> None:
    run, _ = run_of(6)
    assert run.replayed().state.digest() == run.state.digest()
    arrays = run.state.export()
    assert CurriculumState.restore(arrays).digest() == run.state.digest()
    # A snapshot from before there were scores.
    old = {name: a for name, a in arrays.items() if not name.startswith("history.scores.")}
    old.pop("history.points.log_loss_sum")
    told = told_of(CurriculumState.restore(old))
    assert len(told.estimators) == 0
    assert len(told.history.log_losses) == 6


def test_nothing_scored_is_unknown_not_zero() -> None:
    told = told_of(Run().state)
    assert math.isnan(told.calibration.spearman)
    assert told.calibration.spearman_groups == 0
    assert list(told.estimators) == []
    assert isinstance(told, pb.Summary)
