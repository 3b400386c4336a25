"""What the learner adds to the verdicts for form and length, by values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer_client.client import RolloutStatus
from trainer_client.config import LearnerConfig, RewardConfig
from trainer_client.judging import Verdict
from trainer_client.learner.shaping import ends_in_repeats, overlong_penalty
from trainer_client.reward_shaping import shaped_rewards
from trainer_client.rollouts import Completion
from trainer_client.rounds import Group
from trainer_client.tasks import TaskPrompt
from trainer_client.tasks.verifiers import exact_match
from trainer_client.training_samples import training_samples

pytestmark = pytest.mark.torch


def completion(text: str, tokens: int = 4, reason: str = "stop", token: int | None = None) -> Completion:
    ids = tuple(range(tokens)) if token is None else (token,) * tokens
    return Completion(ids, (-1.0,) * tokens, text, reason)  # type: ignore[arg-type]


def shaped(completions: list[Completion], rewards: list[float], **settings: object) -> list[float]:
    return shaped_rewards(
        completions,
        np.array(rewards),
        RewardConfig.model_validate(settings),
        LearnerConfig(),
        max_tokens=100,
    ).tolist()


def test_without_settings_the_verdict_is_the_reward() -> None:
    assert shaped([completion("a"), completion("b")], [1.0, 0.0]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("length", "penalty"), [(10, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_the_penalty_for_length_falls_over_the_buffer(length: int, penalty: float) -> None:
    assert overlong_penalty(length, 100, 20) == pytest.approx(penalty)


def test_form_and_length_add_up() -> None:
    found = shaped(
        [completion("<think>\n</think> 4"), completion("4"), completion("<think></think>", tokens=90)],
        [1.0, 1.0, 0.0],
        format_pattern="<think>.*</think>",
        format_reward=0.25,
        overlong_buffer_tokens=20,
        overlong_penalty=0.5,
    )
    assert found == [1.25, 1.0, 0.25 - 0.25]


def test_the_penalties_of_grpo_lead() -> None:
    found = shaped(
        [
            completion("answer: 4"),
            completion("answer: 5"),
            completion("no idea"),
            completion("answer: 4", 40, token=7),
        ],
        [1.0, 0.0, 0.0, 1.0],
        format_pattern="answer:",
        lead_penalties=True,
    )
    assert found == [1.0, -1.0, 0.0, -2.0]


@pytest.mark.parametrize(
    ("token_ids", "repeats"),
    [
        ([1] * 31, False),
        ([1] * 32, True),
        ([1, 2, 3] + [4, 5] * 16, True),
        (list(range(10)) * 3, False),
        (list(range(10)) * 4, True),
        (list(range(10)) * 4 + [99], False),
        (list(range(200)), False),
    ],
)
def test_repetition_is_what_a_completion_ends_on(token_ids: list[int], repeats: bool) -> None:
    assert ends_in_repeats(token_ids) is repeats


def test_truncated_completions_can_be_left_out_but_count_for_the_baseline() -> None:
    group = Group(TaskPrompt("p", "p", "x", exact_match), (1, 2), 0.5)
    completions = [completion("x"), completion("y"), completion("cut", reason="length")]
    rewards = [1.0, 0.0, 0.0]
    group.add(completions, [Verdict(reward, RolloutStatus.OK) for reward in rewards])
    samples = training_samples(
        [group], LearnerConfig(advantage="dr_grpo"), shaping=RewardConfig(mask_truncated=True)
    )
    assert [sample.advantage for sample in samples] == pytest.approx([2 / 3, -1 / 3])


@pytest.mark.parametrize(
    "settings", [{"format_reward": 1.0}, {"lead_penalties": True}, {"format_pattern": "("}]
)
def test_settings_of_the_form_without_a_form_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="format_pattern"):
        RewardConfig.model_validate(settings)
