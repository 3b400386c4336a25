"""Reads for people and dashboards: the summary, and pages of prompt states."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.calibration import EstimatorScores
from sampler_service.curriculum.errors import InvalidArgument, NotFound
from sampler_service.curriculum.history import FINE_BINS, HISTORY_BINS, PROFILE_BINS
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.answers import timestamp

__all__ = ["calibration_message", "prompt_states", "summary"]

_DEFAULT_BINS: Final = 20
_DEFAULT_PAGE: Final = 100
_MAX_PAGE: Final = 10_000
_SCAN_BLOCK: Final = 65_536


def summary(state: CurriculumState, bins: int, rates: NDArray[np.float64]) -> pb.Summary:
    """Aggregates of one curriculum; `rates` are its `cluster_rates`.

    Raises:
        InvalidArgument: more bins than are kept, or a number that does not divide them.
    """
    bins = bins or _DEFAULT_BINS
    if not 0 < bins <= FINE_BINS or FINE_BINS % bins:
        divisors = ", ".join(str(d) for d in range(1, FINE_BINS + 1) if FINE_BINS % d == 0)
        raise InvalidArgument("INVALID_BINS", f"bins = {bins} must be one of {divisors}.", "bins")
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
        history=_history(state),
        effective_prompt_ratio=history.recent_mixed_share(),
        rollouts_spent=int(totals["rollouts"]),
        rollouts_wasted=int(totals["wasted_rollouts"]),
        rollouts_saved=history.rollouts_saved,
        calibration=_calibration(state),
        estimators=_estimators(state),
        clusters=_clusters(state, rates),
        leases=_leases(state),
        quota_profile=pb.QuotaProfile(
            edges=np.linspace(0.0, 1.0, PROFILE_BINS + 1).tolist(),
            mean_quotas=_ratio(history.profile[1], history.profile[0]).tolist(),
            prompts=np.ceil(history.profile[0]).astype(np.int64).tolist(),
        ),
        rollouts_error=counters.get("rollouts_error", 0),
        rollouts_truncated=counters.get("rollouts_truncated", 0),
        rollouts_stale=counters.get("rollouts_stale", 0),
        rollouts_filtered=counters.get("rollouts_filtered", 0),
        leases_expired=counters.get("leases_expired", 0),
        duplicates=counters.get("duplicates", 0),
        groups=int(totals["groups"]),
        mixed_groups=int(totals["mixed_groups"]),
        exploration_rollouts=int(totals["exploration_rollouts"]),
        completion_tokens=counters.get("completion_tokens", 0),
        update_time=timestamp(state.millis),
        preset=state.preset,
    )


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by: no data is not zero."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1e-12), np.nan)


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
        mean_rewards=_ratio(series["reward_sum"], series["rollouts"]).tolist(),
        briers=_ratio(series["brier_sum"], series["predictions"]).tolist(),
        log_losses=_ratio(series["log_loss_sum"], series["predictions"]).tolist(),
        histogram_counts=histograms.ravel().tolist(),
        histogram_bins=HISTORY_BINS,
    )


def _calibration(state: CurriculumState) -> pb.Calibration:
    """Of all predictions; ranks are those of the estimator that was scored last."""
    history, scores = state.history, list(state.history.scores.estimators.values())
    predictions, brier, log_loss = (
        history.totals[name] for name in ("predictions", "brier_sum", "log_loss_sum")
    )
    return calibration_message(
        predictions, brier, log_loss, history.scores.bins, scores[-1] if scores else None
    )


def calibration_message(
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
        bin_predicted=_ratio(predicted, counts).tolist(),
        bin_observed=_ratio(observed, counts).tolist(),
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
                calibration=calibration_message(
                    scores.predictions, scores.brier_sum, scores.log_loss_sum, scores.bins, scores
                ),
                in_force=name == state.estimator_name,
                policy_versions=series["policy_versions"].astype(np.int64).tolist(),
                predictions=rollouts.astype(np.int64).tolist(),
                briers=_ratio(series["brier_sum"], rollouts).tolist(),
                log_losses=_ratio(series["log_loss_sum"], rollouts).tolist(),
                spearmans=_ratio(series["rank_sum"], series["ranked_groups"]).tolist(),
            )
        )
    return listed


def cluster_rates(state: CurriculumState) -> NDArray[np.float64]:
    """Share of successes per cluster, NaN without evidence. O(N); reads only, so it may run in a thread while
    events are folded: the rates are then of somewhere in between."""
    names, size = len(state.cluster_names), state.table.size
    if not names:
        return np.zeros(0)
    clusters, successes, failures = (
        state.table.column(name)[:size] for name in ("clusters", "successes", "failures")
    )
    inside = (clusters >= 0) & (clusters < names)
    right = np.bincount(clusters[inside], weights=successes[inside], minlength=names)
    wrong = np.bincount(clusters[inside], weights=failures[inside], minlength=names)
    return _ratio(right, right + wrong)


def _clusters(state: CurriculumState, rates: NDArray[np.float64]) -> list[pb.ClusterSummary]:
    prompts, groups, mixed, rollouts = state.cluster_sums.astype(np.int64).tolist()
    return [
        pb.ClusterSummary(
            cluster=name,
            prompts=prompts[i],
            pass_rate=rate,
            groups=groups[i],
            mixed_groups=mixed[i],
            rollouts=rollouts[i],
        )
        for i, (name, rate) in enumerate(zip(state.cluster_names, rates.tolist(), strict=False))
    ]


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


# -- prompt states ---------------------------------------------------------------------


def prompt_states(state: CurriculumState, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
    """One page of prompts that pass the filter, in row order.

    Raises:
        InvalidArgument: a page size or token that is none, a range that is empty.
        NotFound: a prompt id of the filter is not in the curriculum.
    """
    if request.page_size < 0:
        raise InvalidArgument(
            "INVALID_PAGE_SIZE", f"page_size = {request.page_size} must not be negative.", "page_size"
        )
    size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
    start = 0
    if request.page_token:
        if not (request.page_token.isascii() and request.page_token.isdigit()):
            raise InvalidArgument(
                "INVALID_PAGE_TOKEN",
                f"page_token = {request.page_token!r} is not one that this service gave.",
                "page_token",
            )
        start = int(request.page_token)
    if request.filter.prompt_ids:
        rows = _rows_of(state, request.filter)[start : start + size + 1]
        more = len(rows) > size
        rows, following = rows[:size], start + size
    else:
        rows, following = _scan(state, request.filter, start, size)
        more = following < state.table.size
    response = _states_of(state, rows)
    if more:
        response.next_page_token = str(following)
    return response


def _rows_of(state: CurriculumState, wanted: pb.PromptFilter) -> NDArray[Any]:
    rows = state.table.find(list(wanted.prompt_ids))
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        i = int(missing[0])
        raise NotFound(
            "PROMPT_NOT_FOUND",
            f"filter.prompt_ids[{i}] = {wanted.prompt_ids[i]!r} is not in the curriculum.",
            f"filter.prompt_ids[{i}]",
        )
    return rows[_passes(state, rows, wanted)]


def _passes(state: CurriculumState, rows: NDArray[Any], wanted: pb.PromptFilter) -> NDArray[np.bool_]:
    passes = np.ones(len(rows), dtype=np.bool_)
    if wanted.HasField("min_pass_rate") or wanted.HasField("max_pass_rate"):
        low = wanted.min_pass_rate if wanted.HasField("min_pass_rate") else 0.0
        high = wanted.max_pass_rate if wanted.HasField("max_pass_rate") else 1.0
        if not 0.0 <= low <= high <= 1.0:
            raise InvalidArgument(
                "INVALID_RANGE",
                f"filter pass rates [{low}, {high}] must be an interval within [0, 1].",
                "filter.min_pass_rate",
            )
        alphas, betas = state.posterior(rows)
        rates = alphas / (alphas + betas)
        passes &= (rates >= low) & (rates <= high)
    if wanted.clusters:
        known = {name: i for i, name in enumerate(state.cluster_names)}
        keys = [known.get(name, -2) for name in wanted.clusters]
        passes &= np.isin(state.table.column("clusters")[rows], keys)
    if wanted.id_contains:
        for i in np.flatnonzero(passes).tolist():
            passes[i] = wanted.id_contains in state.table.ids(rows[i : i + 1])[0]
    return passes


def _scan(state: CurriculumState, wanted: pb.PromptFilter, start: int, size: int) -> tuple[NDArray[Any], int]:
    """Rows from `start` on that pass, at most `size`, and where the next page begins."""
    found: list[NDArray[Any]] = []
    missing = size
    total = state.table.size
    block = max(2 * size, 1024)
    while start < total and missing > 0:
        rows = np.arange(start, min(start + block, total))
        hits = rows[_passes(state, rows, wanted)]
        if len(hits) > missing:
            hits = hits[:missing]
            start = int(hits[-1]) + 1
        else:
            start = int(rows[-1]) + 1
        found.append(hits)
        missing -= len(hits)
        block = min(2 * block, _SCAN_BLOCK)
    return (np.concatenate(found) if found else np.zeros(0, dtype=np.int64)), start


def _states_of(state: CurriculumState, rows: NDArray[Any]) -> pb.ListPromptStatesResponse:
    view, table = state.view(rows), state.table
    names = [*state.cluster_names, ""]  # −1: none
    return pb.ListPromptStatesResponse(
        prompt_ids=table.ids(rows),
        pass_rates=view.pass_rates.tolist(),
        pass_rate_stddevs=view.pass_rate_stddevs.tolist(),
        alphas=view.alphas.tolist(),
        betas=view.betas.tolist(),
        ema_means=view.ema_means.tolist(),
        ema_variances=view.ema_variances.tolist(),
        visits=view.visits.tolist(),
        rollouts=view.rollouts.tolist(),
        last_policy_versions=table.column("last_policy_versions")[rows].tolist(),
        clusters=[names[i] for i in view.clusters.tolist()],
        in_flight=(table.column("leases")[rows] >= 0).tolist(),
        revision=state.revision,
    )
