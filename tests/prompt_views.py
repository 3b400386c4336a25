"""Views and moments for tests of single methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import PromptView


def floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def view_of(alphas: ArrayLike, betas: ArrayLike, **columns: Any) -> PromptView:
    """A view of prompts with these posteriors; evidence is what exceeds a flat prior."""
    a, b = floats(alphas), floats(betas)
    count = len(a)
    defaults: dict[str, Any] = {
        "rows": np.arange(count),
        "ema_means": np.full(count, np.nan),
        "ema_variances": np.full(count, np.nan),
        "visits": np.ones(count, dtype=np.uint32),
        "rollouts": np.full(count, 8, dtype=np.uint32),
        "last_steps": np.zeros(count, dtype=np.uint32),
        "clusters": np.full(count, -1, dtype=np.int32),
        "reference_pass_rates": np.full(count, np.nan),
        "successes": np.maximum(a - 1.0, 0.0),
        "failures": np.maximum(b - 1.0, 0.0),
    }
    return PromptView(alphas=a, betas=b, **{**defaults, **columns})


def view_at(pass_rates: ArrayLike, strength: float = 1000.0, **columns: Any) -> PromptView:
    """A view whose posterior means are these pass rates, 0 and 1 included."""
    p = floats(pass_rates)
    return view_of(p * strength, (1.0 - p) * strength, **columns)


def table_of(count: int, prefix: str = "p") -> PromptTable:
    table = PromptTable()
    table.add([f"{prefix}{i}".encode() for i in range(count)])
    return table


def counts_of(rollouts: Sequence[int], successes: Sequence[float]) -> Any:
    """Group counts of 0/1 rewards."""
    from sampler_service.curriculum.posterior import count_groups

    groups = np.repeat(np.arange(len(rollouts)), rollouts)
    rewards = np.concatenate(
        [np.r_[np.ones(int(k)), np.zeros(n - int(k))] for n, k in zip(rollouts, successes, strict=True)]
    )
    return count_groups(groups, rewards, len(rollouts), 0.5, fractional=False)
