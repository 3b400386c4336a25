"""Rewards as the learner sees them: the verdict, and what the settings add for form and length."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer_client.config import LearnerConfig, RewardConfig
from trainer_client.learner.shaping import (
    ends_in_repeats,
    format_penalised,
    length_shaped,
    overlong_penalty,
)
from trainer_client.rollouts import Completion


def shaped_rewards(
    completions: Sequence[Completion],
    rewards_G: NDArray[np.float64],
    settings: RewardConfig,
    learner: LearnerConfig,
    *,
    max_tokens: int,
    success_threshold: float = 0.5,
) -> NDArray[np.float64]:
    """Shaped rewards of one group, in order; the verdicts themselves where nothing is to be added.

    First GRPO-LEAD's length reward among correct answers and its penalties, then the format's
    reward, then DAPO's penalty for length.
    """
    lengths = [len(completion.token_ids) for completion in completions]
    shaped = rewards_G
    if learner.length_reward > 0:
        shaped = length_shaped(
            rewards_G,
            np.array(lengths),
            strength=learner.length_reward,
            success_threshold=success_threshold,
        )
    if settings.format_pattern is not None:
        fits = [has_form(completion.text, settings.format_pattern) for completion in completions]
        if settings.lead_penalties:
            shaped = np.array(
                [
                    format_penalised(
                        float(shaped[index]),
                        correct=bool(rewards_G[index] > success_threshold),
                        has_answer=fits[index],
                        repeats=ends_in_repeats(completion.token_ids),
                    )
                    for index, completion in enumerate(completions)
                ]
            )
        shaped = shaped + settings.format_reward * np.array(fits, dtype=np.float64)
    if settings.overlong_buffer_tokens > 0:
        penalties = [
            overlong_penalty(length, max_tokens, settings.overlong_buffer_tokens) for length in lengths
        ]
        shaped = shaped + settings.overlong_penalty * np.array(penalties)
    return shaped


def has_form(text: str, pattern: str) -> bool:
    """Whether the pattern is found in the text; `.` matches line ends too."""
    return re.search(pattern, text, re.DOTALL) is not None
