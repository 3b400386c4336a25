"""Advantages of rollouts from the rewards of their groups. Pure numpy; groups may differ in size.

| estimator      | advantage                                                        | source            |
|----------------|------------------------------------------------------------------|-------------------|
| `grpo`         | (r - mean) / (std + 1e-6), std over n - 1                        | arXiv 2402.03300  |
| `dr_grpo`      | r - mean                                                         | arXiv 2503.20783  |
| `rloo`         | r - mean of the others = (r - mean) n / (n - 1)                  | arXiv 2402.14740  |
| `reinforce_pp` | r - mean, then whitened over the batch                           | arXiv 2501.03262  |
| `raft`         | 1 for a success, else 0                                          | arXiv 2304.06767  |
| `global`       | r - baseline: the one served with the batch, else the batch mean | ours              |

A group of one says nothing relative to itself: the first four give 0 there (released GRPO code gives r).
`raft` and `global` do not compare with the group and keep their value.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Estimator = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "raft", "global"]
EPSILON = 1e-6


def batch_advantages(
    rewards: Sequence[NDArray[np.float64]],
    estimator: Estimator,
    *,
    baselines: Sequence[float] | None = None,
    success_threshold: float = 0.5,
) -> list[NDArray[np.float64]]:
    """Advantages of a batch, one array per group, in order.

    rewards: every counted rollout of each prompt, not only those kept for training.
    baselines: one per group; used by `global` only.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in rewards]
    if estimator == "grpo":
        return [_centred(group) / (_std(group) + EPSILON) for group in groups]
    if estimator == "dr_grpo":
        return [_centred(group) for group in groups]
    if estimator == "rloo":
        return [_centred(group) * (len(group) / max(len(group) - 1, 1)) for group in groups]
    if estimator == "reinforce_pp":
        return _whitened([_centred(group) for group in groups])
    if estimator == "raft":
        return [(group > success_threshold).astype(np.float64) for group in groups]
    if estimator == "global":
        if baselines is None:
            total = np.concatenate(groups) if groups else np.zeros(0)
            baselines = [float(total.mean()) if len(total) else 0.0] * len(groups)
        return [group - baseline for group, baseline in zip(groups, baselines, strict=True)]
    raise ValueError(f"estimator {estimator!r}: unknown; use one of {Estimator.__args__}")


def keep_mask(
    rewards_G: NDArray[np.float64], positives: int, negatives: int, success_threshold: float = 0.5
) -> NDArray[np.bool_]:
    """Which rollouts to train on: the first `positives` successes and the first `negatives` others."""
    success = np.asarray(rewards_G) > success_threshold
    return (success & (np.cumsum(success) <= positives)) | (~success & (np.cumsum(~success) <= negatives))


def is_mixed(rewards_G: NDArray[np.float64], success_threshold: float = 0.5) -> bool:
    """Whether a group has both successes and failures, and so a gradient."""
    success = np.asarray(rewards_G) > success_threshold
    return bool(success.any() and not success.all())


def _centred(group: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(group) < 2:
        return np.zeros_like(group)
    # Equal rewards give exactly zero, whatever the mean's rounding.
    return np.zeros_like(group) if np.ptp(group) == 0 else group - group.mean()


def _std(group: NDArray[np.float64]) -> float:
    return float(group.std(ddof=1)) if len(group) > 1 else 0.0


def _whitened(centred: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    informed = [group for group in centred if len(group) > 1]
    if not informed:
        return centred
    values = np.concatenate(informed)
    mean, std = values.mean(), values.std(ddof=1)
    return [(group - mean) / (std + EPSILON) if len(group) > 1 else group for group in centred]
