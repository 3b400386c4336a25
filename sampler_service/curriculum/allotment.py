"""Sharing a batch's rollouts out: the first round, and the budget of all rounds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.stopping import Stopping
from sampler_service.curriculum.strategy import Strategy
from sampler_service.curriculum.views import PromptView

__all__ = ["allot"]

_MOST_ROLLOUTS: Final = 4096


def allot(
    state: CurriculumState,
    view: PromptView,
    stopping: Stopping,
    rollout_budget: int,
    equal_quotas: bool,
    probabilities: NDArray[np.float64],
    notes: list[str],
) -> tuple[NDArray[Any], NDArray[np.int32], int, NDArray[Any]]:
    """Quotas of a drawn batch.

    Args:
        stopping: the strategy's rule as it holds for this batch.

    Returns:
        rows kept, quotas of the first round, budget of all rounds, and which slots were kept.

    Raises:
        InvalidArgument: the budget is too small for a single prompt.
    """
    strategy = state.strategy
    quota = strategy.quota
    kept = np.arange(len(view))
    plain = np.full(len(view), strategy.rollouts_per_prompt, dtype=np.int32)
    # A rule that sets its own rounds needs that much per prompt to begin; else the quota's least.
    own_rounds = stopping.sets_rounds
    least = int(stopping.first_round(plain)[0]) if own_rounds else quota.least
    default = int(plain.sum()) if equal_quotas else stopping.default_budget(plain)
    budget = rollout_budget or max(default, least)
    if budget < least:
        raise InvalidArgument(
            "BUDGET_TOO_SMALL",
            f"rollout_budget = {budget} is below the {least} rollouts that one prompt needs here"
            f" ({'stopping' if own_rounds else 'quota'} rule). Ask for more rollouts.",
            "rollout_budget",
        )
    if budget < least * len(view):
        kept = np.sort(np.argsort(-probabilities, kind="stable")[: budget // least])
        notes.append(
            f"rollout_budget {budget} gives {least} rollouts each to {len(kept)} of {len(view)} prompts:"
            " the least likely ones were dropped."
        )
        view = state.view(view.rows[kept], gradient_norms=quota.uses_gradient_norms)
    rows = view.rows
    if equal_quotas:
        quotas = _equal_quotas(strategy, stopping, len(rows), budget, least, notes)
        # All of it at once: a rule that wants more later is granted nothing.
        return rows, quotas, int(quotas.sum()), kept
    if own_rounds:
        return rows, stopping.first_round(np.full(len(rows), least, dtype=np.int32)), budget, kept
    # A rule that refills keeps what exceeds one round of groups for the refill.
    first_round = min(budget, len(rows) * strategy.rollouts_per_prompt) if stopping.refills else budget
    first_round = max(first_round, least * len(rows))
    spendable = min(first_round, quota.most * len(rows))
    if spendable < first_round:
        notes.append(
            f"rollout_budget {budget} exceeds {quota.most} rollouts for each of {len(rows)} prompts:"
            f" {spendable} are granted."
        )
    quotas = stopping.first_round(quota.allot(view, spendable))
    if stopping is not strategy.stopping:
        # One round of a rule that else takes several: that it is one is told from a budget without a rest.
        budget = int(quotas.sum())
    return rows, quotas, budget, kept


def _equal_quotas(
    strategy: Strategy, stopping: Stopping, prompts: int, budget: int, least: int, notes: list[str]
) -> NDArray[np.int32]:
    quota = strategy.quota
    most = max(least, _MOST_ROLLOUTS) if stopping.sets_rounds else quota.most
    size = min(max(budget // prompts, least), most)
    overruled = [
        f"{kind} {part.registered_name} is overruled"
        for kind, part, told_apart in (
            ("quota", quota, quota.varies and not stopping.sets_rounds),
            ("stopping rule", stopping, stopping.asks_for_more),
        )
        if told_apart
    ]
    if size * prompts < budget:
        overruled.append(f"{budget - size * prompts} of the budget unspent")
    if overruled:
        notes.append(f"equal_quotas: {size} rollouts each, once; {', '.join(overruled)}.")
    return np.full(prompts, size, dtype=np.int32)
