"""What other strategies would have predicted, and done, over a recorded log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from curriculum.v1 import log_pb2
from sampler_service.curriculum.allotment import allot
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.calibration import EstimatorScores, ScoreBoard
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.curriculum.machine import CurriculumMachine
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy

__all__ = ["RecordedEvent", "Replay", "ReplayedStrategy", "mixed_probability", "replay"]


class RecordedEvent(NamedTuple):
    """An event, where and when the log has it."""

    event: log_pb2.Event
    revision: str
    millis: int


def mixed_probability(
    alphas: NDArray[np.float64], betas: NDArray[np.float64], rollouts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """E[1 − pⁿ − (1−p)ⁿ] under Beta(α, β): that a group of n rollouts comes out mixed."""
    whole = betaln(alphas, betas)
    all_right = np.exp(betaln(alphas + rollouts, betas) - whole)
    all_wrong = np.exp(betaln(alphas, betas + rollouts) - whole)
    probability: NDArray[np.float64] = np.clip(1.0 - all_right - all_wrong, 0.0, 1.0)
    return np.where(rollouts > 0, probability, 0.0)


@dataclass(slots=True)
class ReplayedStrategy:
    """What came of one strategy; sums are over batches or prompts of the log."""

    name: str
    estimator: str
    scores: EstimatorScores = field(default_factory=EstimatorScores)
    """Its predictions for the recorded batches against what came out."""
    recorded_prompts: int = 0
    predicted_mixed: float = 0.0
    """Groups of the recorded batches that it expected to come out mixed."""
    planned_prompts: int = 0
    expected_mixed: float = 0.0
    """Groups of the batches it would have drawn that the recorded estimator expected to come out mixed."""
    overlap_rollouts: float = 0.0
    """Rollouts that it would have given to the same prompts, of those of the batches compared."""
    compared_rollouts: float = 0.0
    shared_prompts: int = 0
    """Prompts of its own batches that are in the recorded ones, of `planned_prompts`."""


@dataclass(slots=True)
class Replay:
    """A recorded log under several strategies."""

    strategies: list[ReplayedStrategy]
    """The first is the recorded one."""
    events: int = 0
    batches: int = 0
    compared_batches: int = 0
    groups: float = 0.0
    mixed_groups: float = 0.0
    revision: str = ""


class _Shadow:
    """A state folded from the recorded events under another strategy's estimator.

    What decides which rollouts count, stopping and thresholds, stays as it was recorded, so that every
    estimator sees the same outcomes.
    """

    def __init__(self, name: str, wanted: Strategy, base: CurriculumState, rng: np.random.Generator) -> None:
        away = [] if base.table.embeddings is None else base.table.embeddings.away
        state = CurriculumState.restore(base.export(), away)
        self.wanted = wanted
        if wanted.estimator.shared_evidence != state.strategy.estimator.shared_evidence:
            state.memory = {}
        if wanted.proposal != state.strategy.proposal:
            state.proposal_memory = {}
        if wanted.clusters != state.strategy.clusters:
            state.cluster_memory = {}
        state.history.scores = ScoreBoard()
        self.machine = CurriculumMachine(state)
        self.follow(base.strategy)
        state.recount()
        self.planner = BatchPlanner(self.machine, rng)
        self.result = ReplayedStrategy(name, wanted.estimator.name)

    @property
    def state(self) -> CurriculumState:
        return self.machine.state

    def follow(self, recorded: Strategy) -> None:
        """Takes over from the recorded strategy what decides which rollouts count."""
        estimator = self.wanted.estimator.model_copy(
            update={
                "success_threshold": recorded.estimator.success_threshold,
                "fractional": recorded.estimator.fractional,
            }
        )
        folded = self.wanted.model_copy(
            update={
                "estimator": estimator,
                "stopping": recorded.stopping,
                "iterations": recorded.iterations,
                "cluster_source": recorded.cluster_source,
                "max_staleness": recorded.max_staleness,
                "lease_seconds": recorded.lease_seconds,
            }
        )
        self.state.set_strategy(folded, self.state.preset)
        self.machine.all_changed = True

    def predict(self, granted: log_pb2.BatchGranted) -> log_pb2.BatchGranted:
        """The grant with this estimator's predictions in it."""
        rows, quotas = from_bytes(granted.rows, "i4"), from_bytes(granted.quotas, "i4")
        alphas, betas = self.state.posterior(rows)
        used = quotas > 0
        mixed = mixed_probability(alphas, betas, quotas.astype(np.float64))
        self.result.recorded_prompts += int(used.sum())
        self.result.predicted_mixed += float(mixed[used].sum())
        own = log_pb2.BatchGranted()
        own.CopyFrom(granted)
        own.pass_rates = to_bytes(alphas / (alphas + betas), "f4")
        return own

    def compare(self, granted: log_pb2.BatchGranted, judge: CurriculumState) -> None:
        """What this strategy would have done instead, at this moment."""
        rows, quotas = from_bytes(granted.rows, "i4"), from_bytes(granted.quotas, "i4")
        state, result = self.state, self.result
        folded, used = state.strategy, quotas > 0
        rows, quotas = rows[used], quotas[used]
        state.strategy = self.wanted
        try:
            view = state.view(rows, gradient_norms=self.wanted.quota.uses_gradient_norms)
            _, own, _, kept = allot(state, view, granted.budget, False, np.ones(len(rows)), [])
            result.compared_rollouts += float(quotas.sum())
            result.overlap_rollouts += float(np.minimum(own, quotas[kept]).sum())
            plan = self.planner.plan(len(rows), granted.budget)
            self.planner.settle(plan)
        except CurriculumError:
            return  # It cannot serve a batch of this size and budget: nothing to compare.
        finally:
            state.strategy = folded
        begun = plan.quotas > 0
        drawn = plan.rows[begun]
        alphas, betas = judge.posterior(drawn)
        result.planned_prompts += len(drawn)
        result.shared_prompts += int(np.isin(drawn, rows).sum())
        result.expected_mixed += float(
            mixed_probability(alphas, betas, plan.quotas[begun].astype(np.float64)).sum()
        )


def replay(
    base: CurriculumState,
    events: Sequence[RecordedEvent],
    strategies: Mapping[str, Strategy],
    *,
    most_compared: int = 64,
    seed: int = 0,
) -> Replay:
    """Folds `events`, which follow `base`, once as recorded and once under every other strategy.

    Every estimator predicts the recorded batches before their outcomes and is scored on them. For at most
    `most_compared` batches, evenly spread, each strategy also draws and shares out a batch of its own.
    O(strategies · (fold + compared batches · draw)).
    """
    judge = CurriculumMachine(base)
    shadows = [
        _Shadow(name, wanted, base, np.random.default_rng(seed)) for name, wanted in strategies.items()
    ]
    recorded = _Shadow("recorded", base.strategy, base, np.random.default_rng(seed))
    base.history.scores = ScoreBoard()
    done = Replay([recorded.result, *(shadow.result for shadow in shadows)])
    before = dict(base.history.totals)
    grants = sum(one.event.WhichOneof("event") == "batch_granted" for one in events)
    every = max(1, -(-grants // most_compared))
    for event, revision, millis in events:
        granted = event.WhichOneof("event") == "batch_granted" and _is_valid(judge, event)
        if granted:
            for shadow in (recorded, *shadows):
                if done.batches % every == 0:
                    shadow.compare(event.batch_granted, judge.state)
            done.compared_batches += done.batches % every == 0
            done.batches += 1
        strategy = judge.state.strategy
        for shadow in (recorded, *shadows):
            own = event
            if granted:
                own = log_pb2.Event()
                own.CopyFrom(event)
                own.batch_granted.CopyFrom(shadow.predict(event.batch_granted))
            if event.WhichOneof("event") != "strategy_updated":
                shadow.machine.apply(own, revision, millis)
        judge.apply(event, revision, millis)
        if judge.state.strategy is not strategy:
            recorded.wanted = judge.state.strategy
            for shadow in (recorded, *shadows):
                shadow.follow(judge.state.strategy)
        done.events += 1
        done.revision = revision
    for shadow in (recorded, *shadows):
        for scores in shadow.state.history.scores.estimators.values():
            shadow.result.scores.add(scores)
    totals = judge.state.history.totals
    done.groups = totals["groups"] - before["groups"]
    done.mixed_groups = totals["mixed_groups"] - before["mixed_groups"]
    return done


def _is_valid(machine: CurriculumMachine, event: log_pb2.Event) -> bool:
    """Whether a grant was neither void nor a repeat."""
    try:
        if machine.recall(event) is not None:
            return False
        machine.check(event)
    except CurriculumError:
        return False
    return True
