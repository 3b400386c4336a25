"""VCRL: groups of high reward variance, and a bank of prompts to come back to (arXiv 2509.19803)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.proposals.base import Memory, ScoredProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Vcrl", "group_variance_score"]


def group_variance_score(right: NDArray[Any], rollouts: NDArray[Any]) -> NDArray[np.float64]:
    """4k(G − k)/G² for even G, 4k(G − k)/(G² − 1) for odd G: 1 when the group is split evenly."""
    k, size = np.asarray(right, dtype=np.float64), np.asarray(rollouts, dtype=np.float64)
    most = np.where(size % 2 == 0, size * size, size * size - 1.0)
    score: NDArray[np.float64] = 4.0 * k * (size - k) / np.maximum(most, 1.0)
    return score


class Vcrl(ScoredProposal):
    """Fresh prompts at random; a slot whose group scored below κ is given to a banked prompt next time.

    The bank holds prompts that scored at least κ, with priority P ← a·P + (1 − a)·b and a limit of replays.
    What the paper calls momentum has two readings of b; both are offered. Prompts are rolled out again,
    rollouts are not kept. The `variance_floor` stopping rule drops the groups below κ.
    """

    threshold: float = Field(default=0.8, ge=0, le=1)
    """κ after the first steps."""
    early_threshold: float = Field(default=0.3, ge=0, le=1)
    """κ during them."""
    early_steps: int = Field(default=20, ge=0)
    """How many policy steps are the first."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """a."""
    priority: Literal["staleness", "variance"] = "staleness"
    """b: policy steps since the prompt was last accessed, or its new score."""
    replay_limit: int = Field(default=2, ge=0)
    """Replays per banked prompt; then it leaves the bank."""
    bank_size: int = Field(default=4096, ge=1)
    """Most prompts banked; the lowest priority leaves first (ours)."""

    def kappa(self, policy_step: int) -> float:
        """κ of a policy step."""
        return self.early_threshold if policy_step < self.early_steps else self.threshold

    def observe(self, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment) -> None:
        """Banks what scored well, counts a replay of what was banked, and frees the slots of the rest."""
        scores = group_variance_score(counts.positives, counts.rollouts)
        good = scores >= self.kappa(moment.policy_step)
        banked = memory.get("rows", np.zeros(0, dtype=np.int64))
        priorities = memory.get("priorities", np.zeros(0))
        replays = memory.get("replays", np.zeros(0, dtype=np.int64))
        accessed = memory.get("accessed", np.zeros(0, dtype=np.int64))
        at = _places(rows, banked)
        known = at >= 0
        replays, priorities, accessed = replays.copy(), priorities.copy(), accessed.copy()
        idle = (moment.policy_step - accessed[at[known]]).astype(np.float64)
        gain = idle if self.priority == "staleness" else scores[known]
        priorities[at[known]] = self.momentum * priorities[at[known]] + (1 - self.momentum) * gain
        replays[at[known]] += 1
        accessed[at[known]] = moment.policy_step
        new = good & ~known
        # A new entry starts from its own score, in either reading.
        banked = np.concatenate([banked, rows[new].astype(np.int64)])
        priorities = np.concatenate([priorities, scores[new]])
        replays = np.concatenate([replays, np.zeros(int(new.sum()), dtype=np.int64)])
        accessed = np.concatenate([accessed, np.full(int(new.sum()), moment.policy_step, dtype=np.int64)])
        stays = np.flatnonzero(replays < max(self.replay_limit, 1))
        stays = np.sort(stays[np.argsort(-priorities[stays], kind="stable")[: self.bank_size]])
        memory["rows"], memory["priorities"] = banked[stays], priorities[stays]
        memory["replays"], memory["accessed"] = replays[stays], accessed[stays]
        memory["freeing"] = memory.get("freeing", np.zeros(1)) + float((~good).sum())

    def advance(self, memory: Memory, moment: Moment) -> None:
        """The slots that the step has freed are those of the next one's batches."""
        memory["freed"] = memory.pop("freeing", np.zeros(1))

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """In [0, 1) for fresh prompts; above 1, by priority, for as many banked ones as slots are free."""
        scores = rng.random(len(view))
        bank, free = self._bank(moment)
        at = _places(bank, view.rows)
        at = at[at >= 0][:free]
        scores[at] = 2.0 - np.arange(len(at)) / (len(at) + 1.0)
        return scores

    def replays(self, rows: NDArray[Any], moment: Moment) -> NDArray[np.bool_]:
        """Those that a freed slot was given to: they scored best, so they come first."""
        bank, free = self._bank(moment)
        replayed: NDArray[np.bool_] = np.isin(rows, bank) & (np.arange(len(rows)) < free)
        return replayed

    def _bank(self, moment: Moment) -> tuple[NDArray[Any], int]:
        """Banked rows, best first, and how many slots are free for them."""
        banked = moment.memory.get("rows")
        if banked is None or self.replay_limit == 0 or "freed" not in moment.memory:
            return np.zeros(0, dtype=np.int64), 0
        best = np.argsort(-moment.memory["priorities"], kind="stable")
        return banked[best], int(moment.memory["freed"][0])


def _places(rows: NDArray[Any], among: NDArray[Any]) -> NDArray[np.int64]:
    """Where each of `rows` is in `among`, whose entries are distinct; −1 where it is not."""
    if len(among) == 0:
        return np.full(len(rows), -1, dtype=np.int64)
    order = np.argsort(among, kind="stable")
    at = order[np.minimum(np.searchsorted(among, rows, sorter=order), len(among) - 1)]
    return np.where(among[at] == rows, at, -1)
