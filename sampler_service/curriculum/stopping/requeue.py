"""Once more for the unsolved, nothing for the solved (NGU, arXiv 2609.13443)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.stopping.base import (
    DONE,
    DROP,
    SAMPLE_MORE,
    Decision,
    SlotTallies,
    Stopping,
)

__all__ = ["Requeue"]


class Requeue(Stopping):
    """All wrong: again with probability q; all right: dropped.

    Again within the lease while its budget and `max_rounds` allow, else in a later batch, as a continuation.
    """

    takes_chances: ClassVar[bool] = True

    probability: float = Field(default=0.75, ge=0, lt=1)
    """q."""
    max_rounds: int = Field(default=4, ge=1, le=256)
    """Rounds per prompt and lease, the first included (ours: a lease must end)."""

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """The expected need if every prompt were unsolved, and never less than one round."""
        return int(np.ceil(quotas.sum() * sum(self.probability**i for i in range(self.max_rounds))))

    def decide(self, tallies: SlotTallies) -> Decision:
        """Again, drop, or done; a group that stays all wrong is dropped, it has no gradient."""
        unsolved = tallies.positives == 0
        requeued = unsolved & (tallies.uniforms < self.probability)
        again = requeued & (tallies.rounds < self.max_rounds)
        dropped = ~again & (unsolved | (tallies.negatives == 0))
        size = np.maximum(tallies.granted // np.maximum(tallies.rounds, 1), 1)
        return Decision(
            np.where(again, SAMPLE_MORE, np.where(dropped, DROP, DONE)).astype(np.uint8),
            np.where(again, size, 0).astype(np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
            later=requeued,
            unfunded=DROP,
        )
