"""The quota, once."""

from __future__ import annotations

from typing import ClassVar

from sampler_service.curriculum.stopping.base import Decision, SlotTallies, Stopping, done_with_all

__all__ = ["OneShot"]


class OneShot(Stopping):
    """Done as soon as the granted rollouts are back."""

    asks_for_more: ClassVar[bool] = False

    def decide(self, tallies: SlotTallies) -> Decision:
        """DONE with everything."""
        return done_with_all(tallies)
