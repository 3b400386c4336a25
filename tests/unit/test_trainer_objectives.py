"""Objectives f(p): a group's advantages are weighted by f'(p)."""

from __future__ import annotations

import numpy as np
import pytest

from trainer_client.client import RolloutStatus
from trainer_client.config import LearnerConfig
from trainer_client.learner.objectives import Objective, objective_weight
from trainer_client.rollouts import Completion
from trainer_client.rounds import Group
from trainer_client.tasks import TaskPrompt
from trainer_client.tasks.verifiers import exact_match
from trainer_client.training_samples import training_samples

pytestmark = pytest.mark.torch


def group(name: str, rewards: list[float]) -> Group:
    made = Group(TaskPrompt(name, name, "", exact_match, ""), (5,), 0.5)
    made.completions = [Completion((6 + place,), (-1.0,), "", "stop") for place in range(len(rewards))]
    made.rewards = rewards
    made.statuses = [RolloutStatus.OK] * len(rewards)
    return made


def advantages(objective: Objective, rewards: list[float], estimator: str = "dr_grpo") -> list[float]:
    settings = LearnerConfig(advantage=estimator, objective=objective, objective_exponent=0.5)  # type: ignore[arg-type]
    return [sample.advantage for sample in training_samples([group("p", rewards)], settings)]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("linear", [0.75, -0.25, -0.25, -0.25]),
        ("log", [3.0, -1.0, -1.0, -1.0]),
        ("power", [1.5, -0.5, -0.5, -0.5]),
        ("arcsin", [np.sqrt(3), *[-1 / np.sqrt(3)] * 3]),
    ],
)
def test_a_rare_success_is_weighted_by_the_slope_of_the_objective(
    objective: Objective, expected: list[float]
) -> None:
    assert advantages(objective, [1.0, 0.0, 0.0, 0.0]) == pytest.approx(expected)


@pytest.mark.parametrize("objective", ["log", "power", "arcsin"])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_without_contrast_has_no_advantage_whatever_the_objective(
    objective: Objective, reward: float
) -> None:
    assert advantages(objective, [reward] * 4) == [0.0] * 4


def test_arcsin_is_what_grpo_maximises() -> None:
    """The same advantages up to the factor between the two standard deviations, over n and over n - 1."""
    rewards = [1.0, 1.0, 0.0, 1.0, 0.0]
    by_objective = np.array(advantages("arcsin", rewards))
    by_deviation = np.array(advantages("linear", rewards, "grpo"))
    np.testing.assert_allclose(by_objective, by_deviation * np.sqrt(5 / 4), rtol=1e-4)


@pytest.mark.parametrize("objective", ["log", "power", "arcsin"])
def test_the_weight_is_the_slope(objective: Objective) -> None:
    functions = {
        "log": np.log,
        "power": lambda p: 2 * np.sqrt(p),
        "arcsin": lambda p: 2 * np.arcsin(np.sqrt(p)),
    }
    for rate in (0.1, 0.5, 0.8):
        slope = (functions[objective](rate + 1e-6) - functions[objective](rate - 1e-6)) / 2e-6
        assert objective_weight(objective, rate) == pytest.approx(slope, rel=1e-5)


def test_an_estimator_with_weights_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="set advantage: dr_grpo or rloo"):
        LearnerConfig(objective="log")
