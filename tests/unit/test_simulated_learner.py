"""The simulated learner learns from rewards, and the machine drives it within its budget."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated.arms import ABLATIONS, Arm, Curve, run_arm
from benchmarks.simulated.learner import Learner, LearnerConfig
from benchmarks.simulated.pools import FEATURES, SHAPES, make_pool


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pool_is_the_same_for_the_same_seed(shape):
    first, second = (make_pool(shape, np.random.default_rng(3), "all", prompts=50) for _ in range(2))
    assert np.array_equal(first.difficulties_N, second.difficulties_N)
    assert np.array_equal(first.embeddings_N_E, second.embeddings_N_E)


@pytest.mark.parametrize("features", FEATURES)
def test_features_do_not_change_the_task(features):
    plain = make_pool("broad", np.random.default_rng(0), "none", prompts=50)
    told = make_pool("broad", np.random.default_rng(0), features, prompts=50)
    assert np.array_equal(plain.difficulties_N, told.difficulties_N)


def test_the_update_follows_the_policy_gradient():
    pool = make_pool("broad", np.random.default_rng(0), prompts=20)
    learner = Learner(pool, LearnerConfig(learning_rate=1.0, advantage="dr_grpo"))
    row = int(np.argmin(np.abs(pool.difficulties_N)))
    p = learner.pass_rates()[row]
    right = np.array([True, True, True, False])
    learner.update(np.array([row]), np.zeros(4, dtype=int), right, right.astype(float), 4)
    advantages = right - 0.75
    expected = np.mean(advantages * (right - p)) * pool.skills_N_S[row]
    assert learner.theta == pytest.approx(expected)


def test_groups_of_one_outcome_teach_nothing():
    pool = make_pool("broad", np.random.default_rng(0), prompts=20)
    learner = Learner(pool)
    update = learner.update(np.array([0]), np.zeros(8, dtype=int), np.ones(8, dtype=bool), np.ones(8), 8)
    assert not learner.theta.any()
    assert update.mixed_share == 0.0


def test_rollouts_to_an_accuracy_are_interpolated():
    curve = Curve(rollouts=[0, 100, 200], accuracies=[0.1, 0.2, 0.4])
    assert curve.rollouts_to(0.3) == pytest.approx(150)
    assert curve.rollouts_to(0.9) == float("inf")


@pytest.mark.parametrize("arm", [Arm("frontier", "frontier"), ABLATIONS[2], Arm("oracle", oracle=True)])
def test_training_raises_held_out_accuracy_within_the_budget(arm):
    pool = make_pool("broad", np.random.default_rng(0), "all", prompts=300)
    curve = run_arm(arm, pool, LearnerConfig(), 0, 30 * 256, 32, 8)
    assert curve.rollouts[-1] == 30 * 256
    assert curve.accuracies[-1] > curve.accuracies[0] + 0.02
    assert np.isfinite(curve.brier_scores).all()
