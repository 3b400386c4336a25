"""Reward shaping of GRPO-LEAD (arXiv 2504.09696): difficulty weights and a length reward."""

import numpy as np
from numpy.typing import NDArray


def lead_weight(share_correct: float) -> float:
    """w(x) = .4 + 1.1 / (1 + exp(10 (x - .75))): hard prompts weigh more."""
    return float(0.4 + 1.1 / (1.0 + np.exp(10.0 * (share_correct - 0.75))))


def lead_weighted(advantages_G: NDArray[np.float64], share_correct: float) -> NDArray[np.float64]:
    """A · w(ρ) for positive advantages, A · w(1 - ρ) for the others; ρ the share of correct rollouts."""
    return np.where(
        advantages_G > 0,
        advantages_G * lead_weight(share_correct),
        advantages_G * lead_weight(1.0 - share_correct),
    )


def length_shaped(
    rewards_G: NDArray[np.float64],
    lengths_G: NDArray[np.int64],
    *,
    strength: float = 0.05,
    success_threshold: float = 0.5,
) -> NDArray[np.float64]:
    """r · exp(-strength · z) for correct answers, z their standardised length; others are unchanged."""
    correct = rewards_G > success_threshold
    shaped = rewards_G.astype(np.float64).copy()
    if correct.sum() < 2:
        return shaped
    lengths = lengths_G[correct].astype(np.float64)
    z = (lengths - lengths.mean()) / (lengths.std(ddof=1) + 1e-6)
    shaped[correct] *= np.exp(-strength * z)
    return shaped


def format_penalised(reward: float, *, correct: bool, has_answer: bool, repeats: bool) -> float:
    """GRPO-LEAD's explicit penalties: wrong -1, no answer 0, with repetition -2; correct keeps its reward."""
    if repeats:
        return -2.0
    if correct:
        return reward
    return -1.0 if has_answer else 0.0
