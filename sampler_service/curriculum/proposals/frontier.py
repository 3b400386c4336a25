"""Our own: prompts of the highest expected reward variance under the posterior."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.proposals.base import Memory, WeightedProposal
from sampler_service.curriculum.proposals.dilution import (
    close_step,
    count_step,
    dilution,
    established_dilution,
    hold_dilution,
    is_held,
    is_probe,
    note_groups,
)
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Frontier"]

# Nothing is dropped for good, and its inverse is finite.
_LEAST_WEIGHT: Final = 1e-100


class Frontier(WeightedProposal):
    """Weight (4·E[p(1−p)])^power, or exp(E[p(1−p)]/τ) where no power is given; E[p(1−p)] = αβ/((α+β)(α+β+1)).

    The expectation puts a confirmed frontier prompt (at most 0.25) above an unknown one (1/6 under a
    flat prior), which the plug-in p̂(1−p̂) does not. A power draws in proportion: a batch holds many different
    prompts. A small τ makes the draw a ranking with random ties: more groups are mixed, and the same few
    prompts return.

    `fatigue` keeps the draw from training on the same prompts again, `balance` a sharp one from training on
    one kind of task after the other. Where the trainer's steps shrink with every group that is not mixed,
    mixed groups count for more: with `diluted_power` the proposal notices (`dilution`) and goes over to that
    power, by geometric interpolation.
    """

    later: ClassVar[frozenset[str]] = frozenset({"dilution_differences", "dilution_probes", "dilution_hold"})

    power: float = Field(default=0.0, ge=0, le=64)
    """How sharply the draw prefers a high expectation; 0: the exponential law below."""
    temperature: float = Field(default=0.002, ge=0.0005)
    """τ, where `power` is 0; the range of the expectation is 0.25."""
    rest_steps: int = Field(default=0, ge=0)
    """Policy steps over which a prompt just visited comes back to its full expectation; 0: at once."""
    fatigue: float = Field(default=0.0, ge=0, le=100)
    """A prompt's weight is divided by (1 + fatigue·visits)^power; where `power` is 0, its expectation by
    1 + fatigue·visits."""
    balance: float = Field(default=0.0, ge=0, le=1)
    """A cluster's share of the draw is its weight to the power of 1 − balance: 0 leaves it, 1 makes the
    shares of all clusters that have weight equal."""
    diluted_power: float = Field(default=0.0, ge=0, le=64)
    """The power of the expectation where steps are seen to be diluted; 0: does not look."""
    dilution_error: float = Field(default=0.0, ge=0, le=10)
    """Steps count as diluted only once the slope that says so is known to ± this standard error, and is two of
    them above that of steps that are not; 0: by a laxer test, sooner, which batches of a few groups mislead."""
    dilution_differences: int = Field(default=8, ge=4, le=64)
    """Differences between consecutive steps that the former test wants at least."""
    dilution_probes: int = Field(default=0, ge=0, le=32)
    """So many early policy steps are drawn with `diluted_power`, the fourth and from there every second one: steps
    with more and with fewer mixed groups show sooner whether they differ in length. Not where a step has fewer than
    16 groups, which would not show it."""
    dilution_hold: bool = False
    """Once the strict test has established it, dilution lasts while the slope less one standard error says so,
    however well it is known."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Scaled so that the largest possible weight is 1."""
        expected = view.expected_variances
        if self.rest_steps:
            since = moment.policy_step - view.last_steps.astype(np.int64)
            rested = np.where(view.visits > 0, np.minimum(since / self.rest_steps, 1.0), 1.0)
            expected = expected * rested
        tired = 1.0 + self.fatigue * view.visits.astype(np.float64) if self.fatigue else 1.0
        if self.power:
            weights = (4.0 * expected) ** self._power(moment) * tired**-self.power
            return np.maximum(weights, _LEAST_WEIGHT)
        ranked: NDArray[np.float64] = np.exp((expected / tired - 0.25) / self.temperature)
        return ranked

    def cluster_balance(self, moment: Moment) -> float:
        """How far the shares of clusters are evened out."""
        return self.balance

    def observe(self, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment) -> None:
        """Notes how many groups are mixed, if that matters."""
        if self.diluted_power:
            note_groups(memory, counts)

    def advance(self, memory: Memory, moment: Moment) -> None:
        """Holds the step's length against its mixed groups."""
        if self.diluted_power and moment.movement is not None and len(moment.movement) > 1:
            kl = float(moment.movement[-1] - moment.movement[-2])
            if self.dilution_probes:
                count_step(memory)
            close_step(memory, kl)
            if self.dilution_hold:
                hold_dilution(memory, self.dilution_error, self.dilution_differences)

    def diluted(self, moment: Moment) -> float:
        """By the strict test or the lax one; 0 where the proposal does not look."""
        if not self.diluted_power:
            return 0.0
        if self.dilution_hold:
            return float(is_held(moment.memory))
        if self.dilution_error:
            return established_dilution(moment.memory, self.dilution_error, self.dilution_differences)
        return dilution(moment.memory)

    def _power(self, moment: Moment) -> float:
        if not self.diluted_power:
            return self.power
        if self.dilution_probes and is_probe(moment.memory, self.dilution_probes):
            return self.diluted_power
        diluted = self.diluted(moment)
        return float(self.power ** (1.0 - diluted) * self.diluted_power**diluted)
