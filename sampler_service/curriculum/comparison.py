"""One curriculum under several strategies at once: its own fold, and every other one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.machine import CurriculumMachine
from sampler_service.curriculum.proposals import WeightedProposal
from sampler_service.curriculum.shadow import FollowedStrategy, inclusion_probabilities
from sampler_service.curriculum.sources import PROPOSAL
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy

__all__ = ["Comparison"]


class Comparison:
    """Folds events in log order, once as they were served and once under every other strategy.

    Every estimator predicts the served batches before their outcomes and is scored on them; at batches that
    are compared, each strategy also draws and shares out one of its own.

    Args:
        base: the curriculum's state, taken over.
        strategies: by name.
        in_force: the name under which the strategy in force is listed, before the others.
    """

    def __init__(
        self,
        base: CurriculumState,
        strategies: Mapping[str, Strategy],
        in_force: str,
        rng: np.random.Generator,
    ) -> None:
        # Before the base is made the judge, which empties its score board.
        others = [
            FollowedStrategy.beside(name, wanted, base, rng.spawn(1)[0])
            for name, wanted in strategies.items()
        ]
        self._machine = CurriculumMachine(base)
        judge = FollowedStrategy(in_force, base.strategy, self._machine, rng.spawn(1)[0], in_force=True)
        self.followed = [judge, *others]
        """The strategy in force first."""
        self.batches = 0
        self.compared_batches = 0
        self._compared: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float64]] | None]] = {}
        """By lease that is live: what `FollowedStrategy.compare` said, for each."""

    @property
    def state(self) -> CurriculumState:
        """The curriculum's own."""
        return self._machine.state

    @property
    def machine(self) -> CurriculumMachine:
        """The curriculum's own fold."""
        return self._machine

    def forget(self) -> None:
        """Begins all figures anew; what the strategies have learnt stays."""
        self.batches = self.compared_batches = 0
        self._compared = {}
        for one in self.followed:
            one.forget()

    def fold(
        self, event: log_pb2.Event, revision: str, millis: int, *, compare: bool = True
    ) -> log_pb2.Outcome:
        """Folds one event. O(strategies · fold), and O(strategies · draw) on top for a batch that is compared."""
        kind = event.WhichOneof("event")
        own = [event] * len(self.followed)
        if kind == "batch_granted" and self._is_valid(event):
            if compare:
                self._compare(event.batch_granted)
            self.batches += 1
            own = [one.predict(event) for one in self.followed]
        waiting = [(lease, lease.open.copy()) for lease in self._compared_leases(event)]
        before = self.state.strategy
        outcome = self._machine.apply(event, revision, millis)
        if outcome.HasField("refusal") or outcome.duplicate:
            return outcome
        if kind != "strategy_updated":
            for one, its_event in zip(self.followed[1:], own[1:], strict=True):
                one.machine.apply(_lean(its_event, one.wanted), revision, millis)
        if self.state.strategy is not before:
            for one in self.followed:
                one.follow(self.state.strategy)
        for lease, was_open in waiting:
            self._finish(lease, was_open & ~lease.open)
        return outcome

    def _is_valid(self, event: log_pb2.Event) -> bool:
        """Whether a grant is neither void nor a repeat."""
        try:
            if self._machine.recall(event) is not None:
                return False
            self._machine.check(event)
        except CurriculumError:
            return False
        return True

    def _compare(self, granted: log_pb2.BatchGranted) -> None:
        odds = self._odds(granted)
        self._compared[granted.lease_id] = [one.compare(granted, self.state, odds) for one in self.followed]
        self.compared_batches += 1

    def _odds(self, granted: log_pb2.BatchGranted) -> NDArray[np.float64]:
        """Per slot, the probability that the proposal in force put the prompt into the batch; 0 where it did not
        choose it, or by a score, whose probability nobody knows."""
        strategy = self.state.strategy
        odds = from_bytes(granted.probabilities, "f4").astype(np.float64)
        if not isinstance(strategy.proposal, WeightedProposal) or strategy.clusters is not None:
            return np.zeros(len(odds))
        proposed = (from_bytes(granted.sources, "u1") == PROPOSAL) & (from_bytes(granted.quotas, "i4") > 0)
        return np.where(proposed, inclusion_probabilities(odds, odds[proposed]), 0.0)

    def _compared_leases(self, event: log_pb2.Event) -> Iterator[Lease]:
        """Leases of compared batches of which groups may come out by this event."""
        kind = event.WhichOneof("event")
        if kind == "leases_expired":
            ids = list(event.leases_expired.lease_ids)
        elif kind in ("rollouts_reported", "batch_released"):
            ids = [getattr(event, kind).lease_id]
        else:
            return
        for lease_id in ids:
            lease = self.state.leases.live.get(lease_id)
            if lease is not None and lease_id in self._compared:
                yield lease

    def _finish(self, lease: Lease, closed: NDArray[np.bool_]) -> None:
        closed = closed & (lease.outcomes > 0)
        mixed = lease.reward_minima[closed] < lease.reward_maxima[closed]
        for one, said in zip(self.followed, self._compared[lease.lease_id], strict=True):
            if said is not None and closed.any():
                shared, weights = said
                one.finished(shared[closed], weights[closed], mixed)
        if not lease.open.any():
            del self._compared[lease.lease_id]


def _lean(event: log_pb2.Event, strategy: Strategy) -> log_pb2.Event:
    """The event without the embeddings of prompts that are added, if the strategy does not read them."""
    if event.WhichOneof("event") != "prompts_added" or strategy.uses_embeddings:
        return event
    if not event.prompts_added.embeddings:
        return event
    lean = log_pb2.Event()
    lean.CopyFrom(event)
    lean.prompts_added.embeddings = b""
    return lean
