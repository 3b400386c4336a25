"""The summary for people and dashboards."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.calibration import EstimatorScores
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.history import FINE_BINS, HISTORY_BINS, PROFILE_BINS, History
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.answers import timestamp
from sampler_service.replica.pool_figures import PoolFigures, ratio
from sampler_service.replica.shadow_answers import shadows_message

__all__ = ["histogram_bins", "summary"]

_DEFAULT_BINS: Final = 20
# As many as say what strategy is in force, and cost a fraction of a millisecond.
_RECENT_LEASES: Final = 64


def histogram_bins(bins: int) -> int:
    """The bins that a request asks for.

    Raises:
        InvalidArgument: more bins than are kept, or a number that does not divide them.
    """
    bins = bins or _DEFAULT_BINS
    if not 0 < bins <= FINE_BINS or FINE_BINS % bins:
        divisors = ", ".join(str(d) for d in range(1, FINE_BINS + 1) if FINE_BINS % d == 0)
        raise InvalidArgument("INVALID_BINS", f"bins = {bins} must be one of {divisors}.", "bins")
    return bins


def summary(state: CurriculumState, bins: int, pool: PoolFigures) -> pb.Summary:
    """Aggregates of one curriculum.

    Args:
        bins: of the histograms, as `histogram_bins` gave them.
        pool: what `look_at_pool` found in the state, with as many bins.
    """
    told = figures(state, bins)
    told.MergeFrom(
        pb.Summary(
            history=_history(state),
            calibration=_calibration(state),
            estimators=_estimators(state),
            clusters=_clusters(state, pool.cluster_rates),
            uncertainty=pool.uncertainty,
            leases=_leases(state),
            quota_profile=_quota_profile(state.history),
        )
    )
    return told


def figures(state: CurriculumState, bins: int) -> pb.Summary:
    """The part of a summary that is at hand: counts and the difficulty histogram."""
    history, totals = state.history, state.history.totals
    counters = history.counters
    return pb.Summary(
        curriculum_id=state.curriculum_id,
        revision=state.revision,
        policy_version=state.policy_version,
        iteration=state.iteration,
        prompts=state.table.size,
        prompts_seen=state.table.size - state.unseen,
        prompts_in_flight=state.in_flight,
        difficulty_histogram=pb.Histogram(
            edges=np.linspace(0.0, 1.0, bins + 1).tolist(),
            counts=history.fine_histogram.reshape(bins, -1).sum(axis=1).tolist(),
            unseen=state.unseen,
        ),
        effective_prompt_ratio=history.recent_mixed_share(),
        rollouts_spent=int(totals["rollouts"]),
        rollouts_wasted=int(totals["wasted_rollouts"]),
        rollouts_saved=history.rollouts_saved,
        rollouts_error=counters.get("rollouts_error", 0),
        rollouts_truncated=counters.get("rollouts_truncated", 0),
        rollouts_stale=counters.get("rollouts_stale", 0),
        rollouts_filtered=counters.get("rollouts_filtered", 0),
        live_leases=len(state.leases.live),
        leases_expired=counters.get("leases_expired", 0),
        duplicates=counters.get("duplicates", 0),
        groups=int(totals["groups"]),
        mixed_groups=int(totals["mixed_groups"]),
        exploration_rollouts=int(totals["exploration_rollouts"]),
        completion_tokens=counters.get("completion_tokens", 0),
        update_time=timestamp(state.millis),
        preset=state.preset,
        shadows=shadows_message(state),
    )


def _quota_profile(history: History) -> pb.QuotaProfile:
    return pb.QuotaProfile(
        edges=np.linspace(0.0, 1.0, PROFILE_BINS + 1).tolist(),
        mean_quotas=ratio(history.profile[1], history.profile[0]).tolist(),
        prompts=np.ceil(history.profile[0]).astype(np.int64).tolist(),
    )


def _history(state: CurriculumState) -> pb.History:
    series = state.history.series()
    histograms = state.history.histograms()
    points = len(series["rollouts"])
    if points > len(histograms):
        # The open point: it ends now, with the histogram as it is now.
        series["millis"][-1], series["policy_versions"][-1] = state.millis, state.policy_version
        present = state.history.fine_histogram.reshape(1, HISTORY_BINS, -1).sum(axis=2)
        histograms = np.concatenate([histograms, present])

    def whole(name: str) -> list[int]:
        listed: list[int] = series[name].astype(np.int64).tolist()
        return listed

    return pb.History(
        times_seconds=(series["millis"] / 1000.0).tolist(),
        policy_versions=whole("policy_versions"),
        groups=whole("groups"),
        mixed_groups=whole("mixed_groups"),
        all_correct_groups=whole("all_correct_groups"),
        all_wrong_groups=whole("all_wrong_groups"),
        rollouts=whole("rollouts"),
        wasted_rollouts=whole("wasted_rollouts"),
        exploration_rollouts=whole("exploration_rollouts"),
        mean_rewards=ratio(series["reward_sum"], series["rollouts"]).tolist(),
        briers=ratio(series["brier_sum"], series["predictions"]).tolist(),
        log_losses=ratio(series["log_loss_sum"], series["predictions"]).tolist(),
        histogram_counts=histograms.ravel().tolist(),
        histogram_bins=HISTORY_BINS,
    )


def _calibration(state: CurriculumState) -> pb.Calibration:
    """Of all predictions; ranks are those of the estimator that was scored last."""
    history, scores = state.history, list(state.history.scores.estimators.values())
    predictions, brier, log_loss = (
        history.totals[name] for name in ("predictions", "brier_sum", "log_loss_sum")
    )
    return _calibration_message(
        predictions, brier, log_loss, history.scores.bins, scores[-1] if scores else None
    )


def _calibration_message(
    predictions: float,
    brier_sum: float,
    log_loss_sum: float,
    bins: NDArray[Any],
    ranked: EstimatorScores | None,
) -> pb.Calibration:
    """Sums of scores as the API says them; NaN where nothing was scored."""
    counts, predicted, observed = bins
    return pb.Calibration(
        predictions=int(predictions),
        brier=brier_sum / predictions if predictions else math.nan,
        log_loss=log_loss_sum / predictions if predictions else math.nan,
        bin_counts=counts.astype(np.int64).tolist(),
        bin_predicted=ratio(predicted, counts).tolist(),
        bin_observed=ratio(observed, counts).tolist(),
        spearman=ranked.spearman() if ranked else math.nan,
        spearman_groups=ranked.window_groups if ranked else 0,
    )


def _estimators(state: CurriculumState) -> list[pb.EstimatorCalibration]:
    listed = []
    for name, scores in state.history.scores.estimators.items():
        series = scores.points(state.policy_version)
        rollouts = series["predictions"]
        listed.append(
            pb.EstimatorCalibration(
                estimator=name,
                calibration=_calibration_message(
                    scores.predictions, scores.brier_sum, scores.log_loss_sum, scores.bins, scores
                ),
                in_force=name == state.estimator_name,
                policy_versions=series["policy_versions"].astype(np.int64).tolist(),
                predictions=rollouts.astype(np.int64).tolist(),
                briers=ratio(series["brier_sum"], rollouts).tolist(),
                log_losses=ratio(series["log_loss_sum"], rollouts).tolist(),
                spearmans=ratio(series["rank_sum"], series["ranked_groups"]).tolist(),
            )
        )
    return listed


def _clusters(state: CurriculumState, rates: NDArray[np.float64]) -> list[pb.ClusterSummary]:
    prompts, groups, mixed, rollouts = state.cluster_sums.astype(np.int64).tolist()
    shares = _recent_shares(state)
    return [
        pb.ClusterSummary(
            cluster=name,
            prompts=prompts[i],
            pass_rate=rate,
            groups=groups[i],
            mixed_groups=mixed[i],
            rollouts=rollouts[i],
            recent_share=shares[i],
        )
        for i, (name, rate) in enumerate(zip(state.cluster_names, rates.tolist(), strict=False))
    ]


def _recent_shares(state: CurriculumState) -> list[float]:
    """Share of each cluster in the rollouts of the last batches."""
    names, labels = len(state.cluster_names), state.table.column("clusters")
    # Of the dictionaries' ends only: both are in the order in which leases began or ended.
    live = list(islice(reversed(state.leases.live.values()), _RECENT_LEASES))
    closed = list(islice(reversed(state.leases.closed.values()), _RECENT_LEASES))
    recent = sorted(live + closed, key=lambda lease: lease.key)[-_RECENT_LEASES:]
    if not names or not recent:
        return [math.nan] * names
    rows = np.concatenate([lease.rows for lease in recent])
    granted = np.concatenate([lease.granted for lease in recent])
    of_row = labels[rows]
    inside = (of_row >= 0) & (of_row < names)
    sums = np.bincount(of_row[inside], weights=granted[inside], minlength=names)
    total = float(granted.sum())
    shares: list[float] = ratio(sums, np.full(names, total)).tolist()
    return shares


def _leases(state: CurriculumState) -> list[pb.LeaseSummary]:
    return [
        pb.LeaseSummary(
            lease_id=lease.lease_id,
            trainer_id=lease.trainer_id,
            prompts=len(lease.rows),
            open_prompts=int(lease.open.sum()),
            rollouts_granted=int(lease.granted.sum()),
            rollouts_reported=int(lease.returned.sum()),
            grant_time=timestamp(lease.grant_millis),
            expire_time=timestamp(lease.expire_millis),
            policy_version=lease.policy_version,
        )
        for lease in state.leases.live.values()
    ]
