"""Reward shaping: GRPO-LEAD's difficulty weights, length reward and penalties, DAPO's for length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# A completion repeats itself when it ends on so many copies of one block, so many tokens in all.
REPEATS = 4
REPEATED_TOKENS = 32
LONGEST_BLOCK_TOKENS = 64


def lead_weight(share_correct: float) -> float:
    """w(x) = .4 + 1.1 / (1 + exp(10 (x - .75))): hard prompts weigh more (arXiv 2504.09696)."""
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


def overlong_penalty(length_tokens: int, max_tokens: int, buffer_tokens: int) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13): 0, falling to -1 over the last `buffer_tokens`."""
    return -min(1.0, max(0.0, (length_tokens - (max_tokens - buffer_tokens)) / buffer_tokens))


def ends_in_repeats(token_ids: Sequence[int]) -> bool:
    """Whether the completion ends on at least four copies of one block that make 32 tokens or more. Ours."""
    for block in range(1, LONGEST_BLOCK_TOKENS + 1):
        span = block * max(REPEATS, -(-REPEATED_TOKENS // block))
        tail = token_ids[-span:]
        if len(tail) == span and tail[block:] == tail[:-block]:
            return True
    return False
