"""Figures of the curricula in memory, for metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

from sampler_service.curriculum.history import FINE_BINS
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.shadow_answers import shadows_message

__all__ = ["CurriculumStatistics", "EstimatorFigures", "ShadowFigures", "statistics_of"]


class EstimatorFigures(NamedTuple):
    """How an estimator's predictions have come out."""

    predictions: float
    brier_sum: float
    log_loss_sum: float
    spearman: float


class ShadowFigures(NamedTuple):
    """How a strategy has done beside the one in force, since the comparison began."""

    predictions: float
    brier_sum: float
    expected_mixed_share: float
    """NaN before the first batch is compared."""
    quota_overlap: float


_BINS = 10
_EDGES = tuple((i + 1) / _BINS for i in range(_BINS))


@dataclass(frozen=True, slots=True)
class CurriculumStatistics:
    """Figures of one loaded curriculum."""

    curriculum_id: str
    revision: str
    prompts: int
    in_flight: int
    unseen: int
    live_leases: int
    counters: dict[str, int]
    totals: dict[str, float]
    table_bytes: int
    events_folded: int
    fold_seconds: float
    snapshot_age_seconds: float
    stale: bool
    lag_seconds: float
    snapshot_bytes: int
    """Of the newest snapshot, blocks that it shares with others included; 0 without one."""
    pass_rate_edges: tuple[float, ...]
    """Upper edges of the bins below; the last is 1."""
    pass_rate_counts: tuple[int, ...]
    """Prompts with evidence, by the mean of their posterior."""
    recent_mixed_share: float
    """Mixed groups per group over the last steps; NaN before the first group."""
    rollouts_saved: float
    """Against uniform sampling, an estimate."""
    scores: dict[str, EstimatorFigures]
    """By estimator."""
    shadows: dict[str, ShadowFigures]
    """By name, the strategy in force among them; empty without shadows."""


def statistics_of(replica: CurriculumReplica) -> CurriculumStatistics:
    """What a replica's curriculum looks like now."""
    state = replica.state
    return CurriculumStatistics(
        curriculum_id=replica.curriculum_id,
        revision=state.revision,
        prompts=state.table.size,
        in_flight=state.in_flight,
        unseen=state.unseen,
        live_leases=len(state.leases.live),
        counters=dict(state.history.counters),
        totals=dict(state.history.totals),
        table_bytes=state.table.nbytes,
        events_folded=replica.events_folded,
        fold_seconds=replica.fold_seconds,
        snapshot_age_seconds=(
            time.time() - replica.snapshot_millis / 1000 if replica.snapshot_millis else float("nan")
        ),
        stale=replica.stale,
        lag_seconds=replica.lag_seconds,
        snapshot_bytes=replica.snapshot_bytes,
        pass_rate_edges=_EDGES,
        pass_rate_counts=tuple(
            state.history.fine_histogram.reshape(_BINS, FINE_BINS // _BINS).sum(axis=1).tolist()
        ),
        recent_mixed_share=state.history.recent_mixed_share(),
        rollouts_saved=state.history.rollouts_saved,
        scores={
            name: EstimatorFigures(one.predictions, one.brier_sum, one.log_loss_sum, one.spearman())
            for name, one in state.history.scores.estimators.items()
        },
        shadows=_shadows(state),
    )


def _shadows(state: CurriculumState) -> dict[str, ShadowFigures]:
    message = shadows_message(state)
    if message is None:
        return {}
    return {
        one.strategy: ShadowFigures(
            one.calibration.predictions,
            one.calibration.brier * one.calibration.predictions if one.calibration.predictions else 0.0,
            one.expected_mixed_share,
            one.quota_overlap,
        )
        for one in message.strategies
    }
