"""Our own: a pilot in the batches of a trainer whose steps are diluted, one round in all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.stopping.base import Decision, SlotTallies, Stopping
from sampler_service.curriculum.stopping.best_first import BestFirst
from sampler_service.curriculum.stopping.one_shot import OneShot

__all__ = ["BestFirstWhenDiluted"]

_ONE_SHOT: Final = OneShot()


class BestFirstWhenDiluted(BestFirst):
    """`best_first` in batches drawn while the proposal sees that steps are diluted, `one_shot` in all others.

    Which of them holds for a batch is told from its grant: a budget beyond the first round, or none. So a
    batch that was granted before the view changed is answered as it was granted. Ours.
    """

    def for_batch(self, several_rounds: bool) -> Stopping:
        """This rule, or `one_shot`."""
        return self if several_rounds else _ONE_SHOT

    def default_budget(self, quotas: NDArray[np.int32]) -> int:
        """That of the prompts asked for in one round: a batch costs the same either way."""
        return round(len(quotas) / self.candidates) * int(quotas[0])

    def decide(self, tallies: SlotTallies) -> Decision:
        """As `best_first`, but in larger groups where else a part of the budget would be left over."""
        decision = super().decide(tallies)
        asking = int((decision.rollouts > 0).sum())
        if asking == 0:
            return decision
        # The best get the rest of the division: priorities are served first, and the budget ends it.
        size = max(self.commit, -(-tallies.unspent // asking))
        return replace(decision, rollouts=np.where(decision.rollouts > 0, size, 0).astype(np.int32))
