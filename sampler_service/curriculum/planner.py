"""Decides: which prompts, how many rollouts each. Chance and derived data live here, never in the fold."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.allotment import allot
from sampler_service.curriculum.batch_plan import BatchPlan, plan_of
from sampler_service.curriculum.cluster_draw import best_by_cluster, draw_by_cluster
from sampler_service.curriculum.combinations import missing_columns
from sampler_service.curriculum.due_phase import DuePhase, due_phase
from sampler_service.curriculum.errors import CurriculumError, Exhausted, FailedPrecondition, InvalidArgument
from sampler_service.curriculum.exploration import ExplorationQueue
from sampler_service.curriculum.machine import CurriculumMachine
from sampler_service.curriculum.pool_weights import PoolWeights
from sampler_service.curriculum.proposals import ScoredProposal, WeightedProposal
from sampler_service.curriculum.sources import CONTINUATION, EXPLORATION, PROPOSAL, REPLAY
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.stopping import Stopping
from sampler_service.curriculum.weighted_draw import Draw
from sampler_service.curriculum.weighted_pool import WeightedPool

__all__ = ["BatchPlan", "BatchPlanner"]

_RETRY_SECONDS: Final = 1.0
# Dilution as the proposal sees it, from 0 to 1, from which on a batch may take several rounds because of it.
_DILUTED: Final = 0.5


class _Arguments(NamedTuple):
    batch_size: int
    rollout_budget: int
    equal_quotas: bool


class _Ahead(NamedTuple):
    """A plan made before anybody asked, and what must still hold for it to be used."""

    arguments: _Arguments
    circumstances: tuple[Any, ...]
    plan: BatchPlan
    exploration_mark: tuple[NDArray[Any], int]


class BatchPlanner:
    """Draws batches from a machine's state.

    Keeps what can be derived from the state: the pool's weights and the exploration queue.

    Args:
        machine: read only.
        rng: source of all chance.
    """

    def __init__(self, machine: CurriculumMachine, rng: np.random.Generator) -> None:
        self._machine = machine
        self._rng = rng
        self.weights = PoolWeights(machine)
        self._exploration = ExplorationQueue()
        self._explored_pool: tuple[int, int, int] | None = None
        self._explored_weighing = 0
        self._last_arguments: _Arguments | None = None
        self._ahead: _Ahead | None = None

    @property
    def _state(self) -> CurriculumState:
        return self._machine.state

    def scans_pool(self, batch_size: int) -> bool:
        """Whether such a draw looks at every prompt, O(N): random or global scores, shares of clusters, or the
        exploration queue must be filled anew."""
        strategy = self._state.strategy
        if strategy.clusters is not None or self._must_explore_anew(batch_size):
            return True
        return isinstance(strategy.proposal, ScoredProposal) and not strategy.proposal.candidates_per_prompt

    def _must_explore_anew(self, batch_size: int) -> bool:
        self._follow_pool()
        strategy = self._state.strategy
        wanted = batch_size * strategy.stopping.candidate_factor * strategy.exploration
        return bool(strategy.exploration > 0 and self._exploration.left < wanted + 1)

    def _follow_pool(self) -> None:
        """With other prompts in the weights, the exploration queue starts anew."""
        if self._explored_weighing == self.weights.weighings:
            return
        self._explored_weighing = self.weights.weighings
        state = self._state
        explored = (state.epoch, state.iteration, state.table.size)
        if explored != self._explored_pool:
            self._exploration.clear()
            self._explored_pool = explored

    def odds(self, rows: NDArray[Any]) -> NDArray[np.float64] | None:
        """Probability of each of `rows` in the next draw; None for scored proposals and draws by cluster."""
        if not isinstance(self._state.strategy.proposal, WeightedProposal) or self._by_cluster:
            return None
        pool = self.weights.update()
        return pool.weights_of(rows) / pool.total if pool.total > 0 else np.zeros(len(rows))

    # -- drawing ---------------------------------------------------------------

    def plan(self, batch_size: int, rollout_budget: int = 0, *, equal_quotas: bool = False) -> BatchPlan:
        """Draws a batch and reserves its rows until `settle`.

        Args:
            batch_size: prompts wanted.
            rollout_budget: rollouts for the batch, all rounds; 0 for the strategy's default.
            equal_quotas: every prompt gets the same number.

        Raises:
            InvalidArgument: a size below 1, a budget too small for a single prompt.
            FailedPrecondition: the curriculum has no prompts.
            Exhausted: every prompt is in flight.
        """
        arguments = _Arguments(batch_size, rollout_budget, equal_quotas)
        plan = self._take_ahead(arguments) or self._decide(arguments)
        self._last_arguments = arguments
        self.weights.reserve(plan.rows, True)
        return plan

    def plan_by_seed(
        self, seed: int, batch_size: int, rollout_budget: int = 0, *, equal_quotas: bool = False
    ) -> BatchPlan:
        """As `plan`, but decided by the state, what is reserved, and `seed` alone. O(N).

        A planner of its own draws, with weights and an exploration queue made for this draw: those that are kept
        here depend on what was drawn before.
        """
        apart = BatchPlanner(CurriculumMachine(self._state), np.random.default_rng(seed))
        apart.weights.reserve_like(self.weights)
        plan = apart.plan(batch_size, rollout_budget, equal_quotas=equal_quotas)
        self.weights.reserve(plan.rows, True)
        return plan

    def plan_ahead(self) -> None:
        """Draws the next batch now, in case it will be asked for like the last and nothing changes before.

        The law is that of a draw at the moment of asking: the draw is used only if state, weights and
        reservations are still those it was made from.
        """
        self.weights.update()
        ahead, self._ahead = self._ahead, None
        if self._last_arguments is None:
            return
        if ahead is not None:
            if ahead.circumstances == self._circumstances():
                self._ahead = ahead
                return
            self._exploration.rewind(ahead.exploration_mark)
        strategy = self._state.strategy
        proposal = strategy.proposal
        scores_all = isinstance(proposal, ScoredProposal) and not proposal.candidates_per_prompt
        if scores_all or strategy.clusters is not None or self._state.due:
            return  # These look at the whole pool for each draw: too dear for a guess.
        if self.weights.refreshes_elsewhere and self._must_explore_anew(self._last_arguments.batch_size):
            return  # Too long for now: whoever asks draws in a thread.
        mark = self._exploration.mark()
        try:
            plan = self._decide(self._last_arguments)
        except CurriculumError:
            return  # Whoever asks will be told.
        self._ahead = _Ahead(self._last_arguments, self._circumstances(), plan, mark)

    @property
    def planned_ahead(self) -> BatchPlan | None:
        """The plan made ahead, if there is one."""
        return None if self._ahead is None else self._ahead.plan

    def _take_ahead(self, arguments: _Arguments) -> BatchPlan | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        unchanged = not self._machine.has_changes and ahead.circumstances == self._circumstances()
        if ahead.arguments == arguments and unchanged:
            return ahead.plan
        self._exploration.rewind(ahead.exploration_mark)
        return None

    def _circumstances(self) -> tuple[Any, ...]:
        state = self._state
        return state.revision, state.etag, state.epoch, self.weights.reservations, self.weights.weighings

    def _decide(self, arguments: _Arguments) -> BatchPlan:
        batch_size, rollout_budget, equal_quotas = arguments
        state = self._state
        strategy = state.strategy
        if state.table.size == 0:
            raise FailedPrecondition(
                "EMPTY_POOL",
                "The curriculum has no prompts yet. Add some first (AddPrompts).",
                "curriculum_id",
            )
        if batch_size < 1:
            raise InvalidArgument(
                "INVALID_BATCH_SIZE", f"batch_size = {batch_size} must be at least 1.", "batch_size"
            )
        if rollout_budget < 0:
            raise InvalidArgument(
                "INVALID_BUDGET", f"rollout_budget = {rollout_budget} must not be negative.", "rollout_budget"
            )
        notes: list[str] = []
        if state.due and (phase := due_phase(state)) is not None:
            plan = self._decide_due(phase, batch_size, rollout_budget, notes)
            if plan is not None:
                return plan
        equal_quotas = equal_quotas or strategy.equal_quotas
        stopping = self.stopping_rule(equal_quotas)
        wanted = max(1, round(batch_size * stopping.candidate_factor))
        if stopping is not strategy.stopping.for_batch(several_rounds=False):
            notes.append(
                "The trainer's steps shrink with groups that teach nothing: this batch begins with a few rollouts"
                f" for {wanted} prompts, and the rest of its budget goes to the best of them (SAMPLE_MORE)."
            )
        rows, probabilities, sources = self._draw(wanted, notes)
        view = state.view(rows, gradient_norms=strategy.quota.uses_gradient_norms)
        rows, quotas, budget, kept = allot(
            state, view, stopping, rollout_budget, equal_quotas, probabilities, notes
        )
        notes.extend(f"{fault}: it has no effect." for _, fault in missing_columns(strategy, state))
        if len(kept) < len(view):
            probabilities, sources = probabilities[kept], sources[kept]
            view = state.view(rows)
        if strategy.stopping.refills and not equal_quotas:
            held, held_odds, held_sources = self._hold_back(rows, quotas, budget, notes)
            if len(held):
                rows, quotas = np.concatenate([rows, held]), np.pad(quotas, (0, len(held)))
                probabilities = np.concatenate([probabilities, held_odds])
                sources = np.concatenate([sources, held_sources])
                view = state.view(rows)
        return plan_of(view, quotas, budget, probabilities, sources, notes, state.epoch)

    def stopping_rule(self, equal_quotas: bool = False) -> Stopping:
        """The stopping rule of the next batch."""
        strategy = self._state.strategy
        diluted = not equal_quotas and strategy.proposal.diluted(self._state.moment()) >= _DILUTED
        return strategy.stopping.for_batch(several_rounds=diluted)

    def _hold_back(
        self, rows: NDArray[Any], quotas: NDArray[np.int32], budget: int, notes: list[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
        """Prompts to refill the batch with: as many as the budget may pay for, and half of what is free."""
        state, stopping = self._state, self._state.strategy.stopping
        free = state.table.size - state.in_flight - self.weights.reserved_count - len(rows)
        affordable = (budget - int(quotas.sum())) // max(int(quotas.max()), 1)
        asked_for = round(len(rows) / stopping.candidate_factor)
        count = min(stopping.reserve(asked_for), affordable, free // 2)
        if count <= 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.uint8)
        self.weights.reserve(rows, True)
        try:
            drawn = self._draw(count, [])
        finally:
            self.weights.reserve(rows, False)
        notes.append(
            f"{len(drawn[0])} prompts are held back to refill the batch: their quota is 0 until a report is"
            " answered with SAMPLE_MORE for them."
        )
        return drawn

    def _decide_due(
        self, phase: DuePhase, batch_size: int, rollout_budget: int, notes: list[str]
    ) -> BatchPlan | None:
        """A batch of prompts that are due, filled up with others; None when all that are due are in flight."""
        state = self._state
        free = state.due.free_rows(phase.source, state.table.leases, self.weights.reserved)
        if len(free) == 0:
            return None
        each = min(phase.rollouts, rollout_budget or phase.rollouts)
        wanted = min(batch_size, rollout_budget // each) if rollout_budget else batch_size
        rows = self._rng.choice(free, min(wanted, len(free)), replace=False)
        probabilities = np.ones(len(rows))
        sources = np.full(len(rows), phase.source, dtype=np.uint8)
        notes.append(phase.note)
        due = rows
        self.weights.reserve(due, True)
        try:
            if wanted > len(due) and state.table.size > state.in_flight + self.weights.reserved_count:
                others, odds, why = self._draw(wanted - len(due), notes)
                rows = np.concatenate([due, others])
                probabilities = np.concatenate([probabilities, odds])
                sources = np.concatenate([sources, why])
        finally:
            self.weights.reserve(due, False)
        quotas = np.full(len(rows), each, dtype=np.int32)
        return plan_of(state.view(rows), quotas, each * len(rows), probabilities, sources, notes, state.epoch)

    def settle(self, plan: BatchPlan) -> None:
        """The plan was granted, or given up: its rows are no longer reserved."""
        self.weights.reserve(plan.rows, False)

    def _draw(
        self, wanted: int, notes: list[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
        state = self._state
        size = state.table.size
        free = size - state.in_flight - self.weights.reserved_count
        if free <= 0:
            raise Exhausted(
                "ALL_PROMPTS_IN_FLIGHT",
                f"All {size} prompts are in flight. Report or release a batch first, or add prompts.",
                "batch_size",
                retry_after_seconds=_RETRY_SECONDS,
            )
        if wanted > free:
            notes.append(
                f"batch_size {wanted} exceeds the {free} prompts that are free"
                f" ({size} in the pool, {size - free} in flight): {free} are granted."
            )
            wanted = free
        pool = self.weights.update()
        self._follow_pool()
        continued, barred = self._continued(wanted)
        wanted -= len(continued)
        floor = int(np.floor(wanted * state.strategy.exploration + self._rng.random()))
        explored = self._exploration.take(state, min(floor, wanted), barred, self._rng)
        excluded = np.concatenate([explored, continued]) if len(continued) else explored
        chosen, probabilities = self._propose(pool, wanted - len(explored), excluded)
        replays = state.strategy.proposal.replays(chosen, state.moment())
        if len(explored) + len(chosen) < wanted:
            # The proposal gives some prompts no weight at all: the floor fills the batch.
            barred = barred.copy()
            barred[explored], barred[chosen] = True, True
            more = self._exploration.take(state, wanted - len(explored) - len(chosen), barred, self._rng)
            if len(more):
                notes.append(f"The proposal weighs too few prompts: {len(more)} were chosen by exploration.")
            explored = np.concatenate([explored, more])
            missing = wanted - len(explored) - len(chosen)
            if missing > 0:
                # The subset of the iteration is used up: the rest of the pool fills the batch.
                barred[explored] = True
                others = np.flatnonzero(~barred[:size] & (state.table.column("leases") < 0))
                others = self._rng.choice(others, min(missing, len(others)), replace=False)
                notes.append(f"The iteration's subset has too few free prompts: {len(others)} are others.")
                explored = np.concatenate([explored, others])
        rows = np.concatenate([chosen, explored, continued])
        odds = np.concatenate([probabilities, np.full(len(explored), 1.0 / free), np.ones(len(continued))])
        sources = np.repeat(
            np.array([PROPOSAL, EXPLORATION, CONTINUATION], dtype=np.uint8),
            [len(chosen), len(explored), len(continued)],
        )
        if replays is not None:
            sources[: len(chosen)][replays] = REPLAY
        return rows, odds, sources

    def _continued(self, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Prompts begun in an earlier batch, for at most half of this one; and what others may not take."""
        state = self._state
        if not state.due:
            return np.zeros(0, dtype=np.int64), self.weights.reserved
        rows = state.due.free_rows(CONTINUATION, state.table.leases, self.weights.reserved)
        rows = self._rng.choice(rows, min(len(rows), (wanted + 1) // 2), replace=False)
        barred = self.weights.reserved.copy()
        barred[rows] = True
        return rows, barred

    def _propose(
        self, pool: WeightedPool, count: int, excluded: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        proposal = self._state.strategy.proposal
        if count <= 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        if not isinstance(proposal, ScoredProposal):
            draw = self._draw_weighted(pool, count, excluded)
            return draw.rows_B, draw.probabilities_B
        if proposal.candidates_per_prompt:
            candidates = pool.candidates(count * proposal.candidates_per_prompt, self._rng, excluded)
        else:
            candidates = pool.positive_rows()
            if len(excluded):
                candidates = candidates[~np.isin(candidates, excluded)]
        scores = self._score(proposal, candidates)
        usable = np.flatnonzero(scores > -np.inf)
        candidates, scores = candidates[usable], scores[usable]
        count = min(count, len(candidates))
        if count == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        if self._by_cluster:
            best = best_by_cluster(self._state, candidates, scores, count, self._rng)
            return candidates[best], np.ones(len(best))
        best = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(count)
        best = best[np.argsort(-scores[best], kind="stable")]
        # The best scores are taken for sure: the probability is that of being a candidate.
        odds = min(1.0, count * max(proposal.candidates_per_prompt, 1) / pool.size)
        return candidates[best], np.full(count, odds if proposal.candidates_per_prompt else 1.0)

    def _draw_weighted(self, pool: WeightedPool, count: int, excluded: NDArray[Any]) -> Draw:
        """From the whole pool, or so many from each cluster as its share of the batch says."""
        if not self._by_cluster:
            return pool.draw(count, self._rng, excluded)
        return draw_by_cluster(self._state, pool, count, excluded, self._rng)

    @property
    def _by_cluster(self) -> bool:
        return self._state.strategy.clusters is not None and bool(self._state.cluster_names)

    def _score(self, proposal: ScoredProposal, candidates: NDArray[Any]) -> NDArray[np.float64]:
        state = self._state
        scores = proposal.scores(state.view(candidates), state.moment(), self._rng)
        return np.where(np.isnan(scores), -np.inf, scores)
