"""SPEED: screen with a few rollouts, go on with those that are neither all right nor all wrong
(arXiv 2506.09016)."""

from __future__ import annotations

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

__all__ = ["Screen"]


class Screen(Stopping):
    """`initial` rollouts; `continued` more iff 0 < p̂ < 1 strictly, else the prompt is dropped.

    Training uses all initial + continued rollouts.
    """

    initial: int = Field(default=4, ge=2, le=4096)
    """N_init: rollouts of the screening."""
    continued: int = Field(default=20, ge=1, le=4096)
    """N_cont: rollouts after it."""

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """The screening."""
        return np.full(len(quotas), self.initial, dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Every prompt passes."""
        return len(quotas) * (self.initial + self.continued)

    def decide(self, tallies: SlotTallies) -> Decision:
        """After the screening go on or drop; after that, done."""
        screened = tallies.rounds == 1
        mixed = (tallies.positives > 0) & (tallies.negatives > 0)
        more = screened & mixed
        actions = np.where(more, SAMPLE_MORE, np.where(screened, DROP, DONE))
        dropped = actions == DROP
        return Decision(
            actions.astype(np.uint8),
            np.where(more, self.continued, 0).astype(np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
            # A prompt that passed but cannot be funded is still worth its screening rollouts.
            unfunded=DONE,
        )
