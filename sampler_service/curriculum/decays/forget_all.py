"""Everything is forgotten a little at every step (BOTS, arXiv 2510.26374)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["ForgetAll", "forget_all_step"]


def forget_all_step(
    evidence: NDArray[np.float64],
    counts: NDArray[np.float64] | float,
    implicit: NDArray[np.float64] | float,
    forgetting: float,
    share: float,
) -> NDArray[np.float64]:
    """One eager step: s ← (1 − λ)s + (1 − ρ)k + ρ·p̃·m, s = α − α0, k = `counts`, p̃·m = `implicit`."""
    return (1.0 - forgetting) * evidence + (1.0 - share) * counts + share * implicit


class ForgetAll(Decay):
    """s ← (1 − λ)s at every policy step, for all prompts; a visit's counts weigh (1 − ρ) + ρ·m/n.

    Lazy, and equal to the eager rule. The weight of a visit is the eager rule for a sampled prompt, whose
    implicit evidence is its own observed rate. For prompts that are not sampled the implicit evidence
    ρ·p̃·m builds up to ρ·m/λ pseudo-rollouts at p̃; here the `shared_evidence` part supplies it, at that
    strength from the start (`anchors` with strength ρ·m/λ = 16).
    """

    forgetting: float = Field(default=0.1, ge=0, lt=1)
    """λ."""
    implicit_share: float = Field(default=0.1, ge=0, lt=1)
    """ρ: weight of implicit evidence."""
    implicit_rollouts: float = Field(default=16.0, gt=0)
    """m: rollouts that implicit evidence counts as."""

    def on_read(self, times: VisitTimes) -> NDArray[np.float64]:
        """(1 − λ)^Δ, Δ = whole policy steps since the last visit in which the prompt was not sampled."""
        idle = times.moment.policy_step - np.asarray(times.last_steps, dtype=np.int64) - 1
        powers: NDArray[np.float64] = (1.0 - self.forgetting) ** np.maximum(idle, 0).astype(np.float64)
        return powers

    def at_visit(self, times: VisitTimes) -> NDArray[np.float64]:
        """One more step, that of the visit."""
        return (1.0 - self.forgetting) * self.on_read(times)

    def outcome_weights(self, rollouts: NDArray[Any]) -> NDArray[np.float64]:
        """(1 − ρ) + ρ·m/n."""
        n = np.maximum(np.asarray(rollouts, dtype=np.float64), 1.0)
        weights: NDArray[np.float64] = (1.0 - self.implicit_share) + (
            self.implicit_share * self.implicit_rollouts / n
        )
        return weights
