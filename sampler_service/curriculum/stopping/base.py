"""The protocol of a stopping rule: decided from reports, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.parts import Part

__all__ = ["DONE", "DROP", "SAMPLE_MORE", "Decision", "SlotTallies", "Stopping"]

# The values of the API's Action.
DONE: Final = 1
SAMPLE_MORE: Final = 2
DROP: Final = 3


@dataclass(frozen=True, slots=True)
class SlotTallies:
    """Slots whose granted rollouts have all come back; one entry per slot."""

    granted: NDArray[np.int64]
    """Rollouts granted so far, all rounds."""
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    """Outcomes at or below the success threshold. Rollouts that failed are in neither."""
    all_equal: NDArray[np.bool_]
    """All rewards so far are exactly equal."""
    rounds: NDArray[np.int64]
    """Rounds so far, at least 1."""
    expected_variances: NDArray[np.float64]
    """E[p(1−p)] under the posterior, this lease's outcomes included."""
    uniforms: NDArray[np.float64]
    """Chance in [0, 1), from a seed drawn before the event was written; zeros unless the rule `takes_chances`."""
    policy_step: int = 0
    """How often the policy has advanced."""
    steps_since_grant: int = 0
    """How many of those advances came after the batch was granted."""
    single_round: bool = False
    """The whole budget was granted in the first round."""
    unspent: int = 0
    """Rollouts of the batch's budget that no slot has been granted yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with each of those slots."""

    actions: NDArray[np.uint8]
    rollouts: NDArray[np.int32]
    """Rollouts wanted, 0 unless SAMPLE_MORE."""
    keep_positives: NDArray[np.int32]
    """Of all rollouts so far, how many right ones to train on."""
    keep_negatives: NDArray[np.int32]
    later: NDArray[np.bool_] | None = None
    """Slots whose prompt should come again in a later batch unless it is sampled more in this one."""
    priorities: NDArray[np.float64] | None = None
    """When the budget cannot fund every SAMPLE_MORE, higher first; None: slot order."""
    unfunded: int = DONE
    """What becomes of a slot whose SAMPLE_MORE the budget cannot fund."""


class Stopping(Part):
    """Decides from tallies alone, so a decision is the same on every replica."""

    compares_prompts: ClassVar[bool] = False
    """Needs `expected_variances`; they are zero for rules that do not."""
    takes_chances: ClassVar[bool] = False
    """Needs `uniforms`."""
    waits_for_batch: ClassVar[bool] = False
    """Decide only once every prompt of the batch has its rollouts back, to compare them."""

    asks_for_more: ClassVar[bool] = True
    """May answer SAMPLE_MORE, so that prompts end with different numbers of rollouts."""

    refills: ClassVar[bool] = False
    """Groups it drops are replaced by prompts that were held back, within the budget."""

    def reserve(self, prompts: int) -> int:
        """Most prompts to hold back for a batch of so many."""
        return 0

    def for_batch(self, several_rounds: bool) -> Stopping:
        """The rule of a batch: rules that do not always take several rounds are another one where they do not."""
        return self

    @property
    def sets_rounds(self) -> bool:
        """Whether the first round is the rule's own, whatever the quota says."""
        return type(self).first_round is not Stopping.first_round

    @property
    def candidate_factor(self) -> float:
        """Prompts to draw per prompt asked for."""
        return 1.0

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """Rollouts to grant at once, of each prompt's quota."""
        return quotas

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Rollouts the batch may need at the most, all rounds, given those of the first round."""
        return int(quotas.sum())

    def default_budget(self, quotas: NDArray[np.int32]) -> int:
        """The budget when the caller names none, given the quotas of a plain batch."""
        if self.sets_rounds or self.refills:
            return self.most_rollouts(self.first_round(quotas))
        return int(quotas.sum())

    def decide(self, tallies: SlotTallies) -> Decision:
        """Next step of every slot. Asking for more must end: granted rollouts are bounded."""
        raise TypeError(f"{type(self).__name__} does not say when to stop")


def done_with_all(tallies: SlotTallies) -> Decision:
    """DONE, every rollout kept."""
    count = len(tallies.granted)
    return Decision(
        np.full(count, DONE, dtype=np.uint8),
        np.zeros(count, dtype=np.int32),
        tallies.positives.astype(np.int32),
        tallies.negatives.astype(np.int32),
    )
