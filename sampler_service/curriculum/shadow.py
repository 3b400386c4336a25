"""A strategy beside the one in force: it folds the same events, predicts the same batches, draws its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.allotment import allot
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.beta_moments import beta_moments
from sampler_service.curriculum.calibration import EstimatorScores, ScoreBoard
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.curriculum.machine import CurriculumMachine
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.request_memory import RequestMemory
from sampler_service.curriculum.sources import PROPOSAL
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy

__all__ = ["FollowedStrategy", "StrategyFigures", "inclusion_probabilities", "mixed_probability"]

_SUMS: Final = (
    "recorded_prompts",
    "predicted_mixed",
    "planned_prompts",
    "expected_mixed",
    "overlap_rollouts",
    "compared_rollouts",
    "shared_prompts",
    "shared_groups",
    "shared_mixed",
    "weight_sum",
    "weight_square_sum",
    "weighted_mixed",
    "support_found",
    "support_expected",
)


def mixed_probability(
    alphas: NDArray[np.float64], betas: NDArray[np.float64], rollouts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """E[1 − pⁿ − (1−p)ⁿ] under Beta(α, β): that a group of n rollouts comes out mixed."""
    all_right = beta_moments(alphas, betas, rollouts, 0.0)
    all_wrong = beta_moments(alphas, betas, 0.0, rollouts)
    probability: NDArray[np.float64] = np.clip(1.0 - all_right - all_wrong, 0.0, 1.0)
    return np.where(rollouts > 0, probability, 0.0)


def inclusion_probabilities(
    odds: NDArray[np.float64], drawn_odds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probability that a prompt is among those drawn without replacement.

    The draw is an exponential race: prompt i arrives after Exponential/odds_i, and the last one of a batch
    arrives at about t = Σ 1 / (1 − odds of those before), so that the prompt is in with 1 − exp(−odds_i t).

    Args:
        odds: of the prompts asked about, in the first draw.
        drawn_odds: of the prompts that were drawn, in their order.
    """
    before = np.concatenate([[0.0], np.cumsum(drawn_odds)[:-1]]) if len(drawn_odds) else np.zeros(0)
    last_arrival = float((1.0 / np.maximum(1.0 - before, 1e-9)).sum())
    inside: NDArray[np.float64] = -np.expm1(-odds * last_arrival)
    return inside


@dataclass(slots=True)
class StrategyFigures:
    """What came of one strategy; sums are over batches, or over prompts of batches."""

    name: str
    estimator: str
    scores: EstimatorScores = field(default_factory=EstimatorScores)
    """Its predictions for the served batches against what came out."""
    recorded_prompts: float = 0.0
    predicted_mixed: float = 0.0
    """Groups of the served batches that it expected to come out mixed."""
    planned_prompts: float = 0.0
    expected_mixed: float = 0.0
    """Groups of the batches it would have drawn that the estimator in force expected to come out mixed."""
    overlap_rollouts: float = 0.0
    """Rollouts that it would have given to the same prompts, of those of the batches compared."""
    compared_rollouts: float = 0.0
    shared_prompts: float = 0.0
    """Prompts of its own batches that are in the served ones, of `planned_prompts`."""
    shared_groups: float = 0.0
    """Groups of those prompts that have come out."""
    shared_mixed: float = 0.0
    weight_sum: float = 0.0
    """Over finished groups that the proposal in force chose: how much likelier this one was to choose them."""
    weight_square_sum: float = 0.0
    weighted_mixed: float = 0.0
    support_found: float = 0.0
    """The weights of all prompts that the proposal in force chose; on average as many as its own choices."""
    support_expected: float = 0.0
    """Its own proposal's choices in the same batches."""

    def sums(self) -> dict[str, float]:
        """All sums by name, those of the scores with them."""
        scored = {name: getattr(self.scores, name) for name in ("predictions", "brier_sum", "log_loss_sum")}
        return scored | {name: float(getattr(self, name)) for name in _SUMS}


class FollowedStrategy:
    """A state folded from the served events under another strategy's estimator, and what it would draw.

    What decides which rollouts count, stopping and thresholds, stays as it is in force, so that every
    estimator sees the same outcomes.

    Args:
        machine: taken over.
        wanted: the strategy followed.
        in_force: it is the strategy in force, and `machine` the curriculum's own fold.
    """

    def __init__(
        self,
        name: str,
        wanted: Strategy,
        machine: CurriculumMachine,
        rng: np.random.Generator,
        *,
        in_force: bool = False,
    ) -> None:
        self.wanted = wanted
        self.machine = machine
        self.in_force = in_force
        self.planner = BatchPlanner(machine, rng)
        self.figures = StrategyFigures(name, wanted.estimator.name)
        self.state.history.scores = ScoreBoard()

    @classmethod
    def beside(
        cls, name: str, wanted: Strategy, base: CurriculumState, rng: np.random.Generator
    ) -> FollowedStrategy:
        """Begins with a copy of `base`: its evidence, but no memory of a model it does not share. O(N)."""
        away = [] if base.table.embeddings is None else base.table.embeddings.away
        state = CurriculumState.restore(base.export(), away)
        if wanted.estimator.shared_evidence != state.strategy.estimator.shared_evidence:
            state.memory = {}
        if wanted.proposal != state.strategy.proposal:
            state.proposal_memory = {}
        if wanted.clusters != state.strategy.clusters:
            state.cluster_memory = {}
        state.requests = _NoMemory()
        one = cls(name, wanted, CurriculumMachine(state), rng)
        one.follow(base.strategy)
        state.recount()
        return one

    @property
    def state(self) -> CurriculumState:
        """What it has folded."""
        return self.machine.state

    def follow(self, in_force: Strategy) -> None:
        """Takes over from the strategy in force what decides which rollouts count."""
        if self.in_force:
            self.wanted = in_force
            return
        estimator = self.wanted.estimator.model_copy(
            update={
                "success_threshold": in_force.estimator.success_threshold,
                "fractional": in_force.estimator.fractional,
            }
        )
        folded = self.wanted.model_copy(
            update={
                "estimator": estimator,
                "stopping": in_force.stopping,
                "iterations": in_force.iterations,
                "cluster_source": in_force.cluster_source,
                "max_staleness": in_force.max_staleness,
                "lease_seconds": in_force.lease_seconds,
            }
        )
        self.state.set_strategy(folded, self.state.preset)
        self.machine.all_changed = True

    def collect(self) -> StrategyFigures:
        """The figures, with all that has been scored until now."""
        self.figures.scores = EstimatorScores()
        for scores in self.state.history.scores.estimators.values():
            self.figures.scores.add(scores)
        return self.figures

    def forget(self) -> None:
        """Begins the figures anew; what it has learnt stays."""
        self.figures = StrategyFigures(self.figures.name, self.figures.estimator)
        self.state.history.scores = ScoreBoard()

    # -- predicting and drawing ------------------------------------------------

    def predict(self, event: log_pb2.Event) -> log_pb2.Event:
        """A grant, with this estimator's predictions in it instead of those that were served."""
        granted = event.batch_granted
        rows, quotas = from_bytes(granted.rows, "i4"), from_bytes(granted.quotas, "i4")
        alphas, betas = self.state.posterior(rows)
        used = quotas > 0
        mixed = mixed_probability(alphas, betas, quotas.astype(np.float64))
        self.figures.recorded_prompts += int(used.sum())
        self.figures.predicted_mixed += float(mixed[used].sum())
        if self.in_force:
            return event
        own = log_pb2.Event()
        own.CopyFrom(event)
        own.batch_granted.pass_rates = to_bytes(alphas / (alphas + betas), "f4")
        return own

    def compare(
        self, granted: log_pb2.BatchGranted, judge: CurriculumState, odds: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]] | None:
        """Draws a batch of its own at this moment, and compares it with the served one.

        Args:
            judge: the curriculum's own state, whose estimator says how the groups would come out.
            odds: probability of each served slot to be chosen by the proposal in force; 0 where that is not known.

        Returns:
            per slot of the served batch whether it would have chosen the prompt too, and its weight: how much
            likelier its proposal chooses it. None when it cannot draw such a batch.
        """
        rows, quotas = from_bytes(granted.rows, "i4"), from_bytes(granted.quotas, "i4")
        state, figures = self.state, self.figures
        folded, used = state.strategy, quotas > 0
        begun_rows, begun_quotas = rows[used], quotas[used]
        state.strategy = self.wanted
        try:
            view = state.view(begun_rows, gradient_norms=self.wanted.quota.uses_gradient_norms)
            _, own, _, kept = allot(
                state, view, self.planner.stopping_rule(), granted.budget, False, np.ones(len(begun_rows)), []
            )
            own_odds = self.planner.odds(rows) if odds.any() else None
            plan = self.planner.plan(len(begun_rows), granted.budget)
            self.planner.settle(plan)
        except CurriculumError:
            return None  # It cannot serve a batch of this size and budget: nothing to compare.
        finally:
            state.strategy = folded
        figures.compared_rollouts += float(begun_quotas.sum())
        figures.overlap_rollouts += float(np.minimum(own, begun_quotas[kept]).sum())
        begun = plan.quotas > 0
        drawn = plan.rows[begun]
        alphas, betas = judge.posterior(drawn)
        figures.planned_prompts += len(drawn)
        figures.shared_prompts += int(np.isin(drawn, begun_rows).sum())
        figures.expected_mixed += float(
            mixed_probability(alphas, betas, plan.quotas[begun].astype(np.float64)).sum()
        )
        proposed = begun & (plan.sources == PROPOSAL)
        chosen = np.isin(rows, plan.rows[proposed])
        weights = np.zeros(len(rows))
        if odds.any():
            inside = (
                chosen.astype(np.float64)  # An unbiased guess at the probability: its own draw.
                if own_odds is None
                else inclusion_probabilities(own_odds, plan.probabilities[proposed])
            )
            weights = np.where(odds > 0, inside / np.maximum(odds, 1e-12), 0.0)
            figures.support_found += float(weights.sum())
            figures.support_expected += float(proposed.sum())
        return np.isin(rows, drawn) & used, weights

    def finished(
        self, shared: NDArray[np.bool_], weights: NDArray[np.float64], mixed: NDArray[np.bool_]
    ) -> None:
        """Groups of a compared batch have come out: one entry per group."""
        figures = self.figures
        figures.shared_groups += int(shared.sum())
        figures.shared_mixed += int((shared & mixed).sum())
        figures.weight_sum += float(weights.sum())
        figures.weight_square_sum += float((weights * weights).sum())
        figures.weighted_mixed += float(weights[mixed].sum())


class _NoMemory(RequestMemory):
    """Of the requests, for a state that is given none twice: it would be the larger part of a small curriculum."""

    def remember(self, request_id: str, fingerprint: bytes, outcome: log_pb2.Outcome) -> None:
        """Nothing."""
