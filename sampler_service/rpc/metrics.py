"""What the curricula look like, for Prometheus: read from the host when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sampler_service.replica import CurriculumStatistics, Residency

__all__ = ["OTHERS", "CurriculumCollector", "ResidencyCollector"]

OTHERS = "(others)"
"""Label of all curricula beyond the limit together."""


class _Gauge(NamedTuple):
    name: str
    text: str
    read: Callable[[CurriculumStatistics], float]


_GAUGES = (
    _Gauge("prompts", "Prompts in the pool.", lambda s: s.prompts),
    _Gauge("prompts_in_flight", "Prompts in live leases.", lambda s: s.in_flight),
    _Gauge("prompts_unseen", "Prompts never rolled out.", lambda s: s.unseen),
    _Gauge("leases_live", "Leases neither finished nor expired.", lambda s: s.live_leases),
    _Gauge("table_bytes", "Memory of the prompt table.", lambda s: s.table_bytes),
    _Gauge("snapshot_bytes", "Size of the newest snapshot.", lambda s: s.snapshot_bytes),
    _Gauge(
        "rollouts_saved", "Rollouts saved against uniform sampling, an estimate.", lambda s: s.rollouts_saved
    ),
    _Gauge("stale", "1 while the log is away and answers are the last known.", lambda s: float(s.stale)),
)
_STATUSES = ("error", "truncated", "stale", "filtered")
_OUTCOMES = ("mixed", "all_correct", "all_wrong")


class CurriculumCollector(Collector):
    """Figures of every loaded curriculum; at most `max_curricula` have a label of their own."""

    def __init__(
        self, statistics: Callable[[], Sequence[CurriculumStatistics]], max_curricula: int = 100
    ) -> None:
        self._statistics = statistics
        self._max_curricula = max_curricula

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the host."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families, a sample per curriculum and label."""
        figures = self._statistics()
        for gauge in _GAUGES:
            family = GaugeMetricFamily(f"curriculum_{gauge.name}", gauge.text, labels=["curriculum"])
            for label, group in self._grouped(figures):
                family.add_metric([label], sum(map(gauge.read, group)))
            yield family
        text = "Time since the newest snapshot; the oldest of several curricula. None: no sample."
        yield self._largest(figures, "snapshot_age_seconds", text, lambda s: s.snapshot_age_seconds)
        text = "Time since this replica last saw the end of the log; the longest of several curricula."
        yield self._largest(figures, "lag_seconds", text, lambda s: s.lag_seconds)
        text = "Mixed groups per group over the last steps; the largest of several curricula."
        yield self._largest(figures, "mixed_group_share", text, lambda s: s.recent_mixed_share)
        yield self._pass_rates(figures)
        yield self._counter(
            figures, "wasted_rollouts", "Rollouts in groups that were not mixed.", _sum("wasted_rollouts")
        )
        yield self._counter(
            figures, "predictions", "Rollouts whose pass rate was predicted.", _sum("predictions")
        )
        text = "Squared errors of those predictions: over their number it is the Brier score."
        yield self._counter(figures, "squared_prediction_error", text, _sum("brier_sum"))
        yield self._counter(figures, "leases_expired", "Leases that ran out.", _count("leases_expired"))
        yield self._counter(figures, "duplicates", "Repeats that were recognised.", _count("duplicates"))
        yield self._counter(figures, "fold_seconds", "Time spent folding events.", lambda s: s.fold_seconds)
        yield self._counter(figures, "events_folded", "Events folded.", lambda s: s.events_folded)
        yield self._split(figures, "rollouts", "Rollouts reported.", "status", _rollouts)
        yield self._split(figures, "groups", "Finished groups.", "outcome", _groups)
        # Sums, so that a rate over any time gives the mean score of that time.
        for name, (text, read) in _SCORES.items():
            yield self._split(figures, name, text, "estimator", read)
        yield self._spearman(figures)
        for name, (text, read) in _SHADOW_SUMS.items():
            yield self._split(figures, name, text, "strategy", read)
        for name, (text, value) in _SHADOW_SHARES.items():
            yield self._shadow_shares(figures, name, text, value)

    def _shadow_shares(
        self,
        figures: Sequence[CurriculumStatistics],
        name: str,
        text: str,
        read: Callable[[CurriculumStatistics], dict[str, float]],
    ) -> Metric:
        family = GaugeMetricFamily(f"curriculum_{name}", text, labels=["curriculum", "strategy"])
        for one in figures[: self._max_curricula]:
            for strategy, value in read(one).items():
                if math.isfinite(value):
                    family.add_metric([one.curriculum_id, strategy], value)
        return family

    def _spearman(self, figures: Sequence[CurriculumStatistics]) -> Metric:
        text = "Rank correlation of predicted and observed pass rates over the last groups."
        family = GaugeMetricFamily("curriculum_estimator_spearman", text, labels=["curriculum", "estimator"])
        for one in figures[: self._max_curricula]:
            for estimator, scores in one.scores.items():
                if math.isfinite(scores.spearman):
                    family.add_metric([one.curriculum_id, estimator], scores.spearman)
        return family

    def _grouped(
        self, figures: Sequence[CurriculumStatistics]
    ) -> Iterable[tuple[str, Sequence[CurriculumStatistics]]]:
        for one in figures[: self._max_curricula]:
            yield one.curriculum_id, [one]
        if len(figures) > self._max_curricula:
            yield OTHERS, figures[self._max_curricula :]

    def _pass_rates(self, figures: Sequence[CurriculumStatistics]) -> Metric:
        """A histogram of the pool as it is, not of observations: its buckets go down, too."""
        text = "Prompts with evidence by the mean of their posterior."
        family = HistogramMetricFamily("curriculum_pass_rate", text, labels=["curriculum"])
        for label, group in self._grouped(figures):
            sums = [sum(counts) for counts in zip(*(one.pass_rate_counts for one in group), strict=True)]
            buckets, below = [], 0
            for edge, count in zip(group[0].pass_rate_edges, sums, strict=True):
                below += count
                buckets.append((f"{edge:g}", float(below)))
            family.add_metric([label], [*buckets, ("+Inf", float(below))], None)
        return family

    def _counter(
        self,
        figures: Sequence[CurriculumStatistics],
        name: str,
        text: str,
        read: Callable[[CurriculumStatistics], float],
    ) -> Metric:
        family = CounterMetricFamily(f"curriculum_{name}", text, labels=["curriculum"])
        for label, group in self._grouped(figures):
            family.add_metric([label], sum(map(read, group)))
        return family

    def _split(
        self,
        figures: Sequence[CurriculumStatistics],
        name: str,
        text: str,
        by: str,
        read: Callable[[CurriculumStatistics], dict[str, float]],
    ) -> Metric:
        family = CounterMetricFamily(f"curriculum_{name}", text, labels=["curriculum", by])
        for label, group in self._grouped(figures):
            sums: dict[str, float] = {}
            for one in group:
                for key, value in read(one).items():
                    sums[key] = sums.get(key, 0.0) + value
            for key, value in sums.items():
                family.add_metric([label, key], value)
        return family

    def _largest(
        self,
        figures: Sequence[CurriculumStatistics],
        name: str,
        text: str,
        read: Callable[[CurriculumStatistics], float],
    ) -> Metric:
        family = GaugeMetricFamily(f"curriculum_{name}", text, labels=["curriculum"])
        for label, group in self._grouped(figures):
            known = [value for value in map(read, group) if math.isfinite(value)]
            if known:
                family.add_metric([label], max(known))
        return family


class ResidencyCollector(Collector):
    """Which share of the curricula is in memory, and how often that changes."""

    def __init__(self, residency: Callable[[], Residency]) -> None:
        self._residency = residency

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the host."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        figures = self._residency()
        yield GaugeMetricFamily("curricula_loaded", "Curricula in memory.", value=figures.loaded)
        yield GaugeMetricFamily(
            "curricula_memory_bytes", "Memory of the loaded curricula, estimated.", value=figures.memory_bytes
        )
        yield CounterMetricFamily("curricula_loads", "Curricula loaded into memory.", value=figures.loads)
        evicted = CounterMetricFamily(
            "curricula_evictions", "Curricula let go: idle, or for lack of memory.", labels=["reason"]
        )
        evicted.add_metric(["idle"], figures.evicted_idle)
        evicted.add_metric(["memory"], figures.evicted_for_memory)
        yield evicted


def _sum(name: str) -> Callable[[CurriculumStatistics], float]:
    return lambda one: one.totals.get(name, 0.0)


def _count(name: str) -> Callable[[CurriculumStatistics], float]:
    return lambda one: one.counters.get(name, 0)


def _rollouts(one: CurriculumStatistics) -> dict[str, float]:
    by_status = {status: float(one.counters.get(f"rollouts_{status}", 0)) for status in _STATUSES}
    # Truncated rollouts count as outcomes too.
    return {"ok": one.totals.get("rollouts", 0.0) - by_status["truncated"], **by_status}


def _groups(one: CurriculumStatistics) -> dict[str, float]:
    return {outcome: one.totals.get(f"{outcome}_groups", 0.0) for outcome in _OUTCOMES}


def _scored(field: str) -> Callable[[CurriculumStatistics], dict[str, float]]:
    return lambda one: {estimator: getattr(scores, field) for estimator, scores in one.scores.items()}


_SCORES = {
    "estimator_predictions": ("Rollouts whose pass rate had been predicted.", _scored("predictions")),
    "estimator_brier": ("Sum of their Brier scores.", _scored("brier_sum")),
    "estimator_log_loss": ("Sum of their log losses.", _scored("log_loss_sum")),
}


def _followed(field: str) -> Callable[[CurriculumStatistics], dict[str, float]]:
    return lambda one: {name: getattr(shadow, field) for name, shadow in one.shadows.items()}


_SHADOW_SUMS = {
    "shadow_predictions": (
        "Rollouts whose pass rate each compared strategy had predicted.",
        _followed("predictions"),
    ),
    "shadow_brier": ("Sum of their Brier scores.", _followed("brier_sum")),
}
_SHADOW_SHARES = {
    "shadow_expected_mixed_share": (
        "Share of mixed groups expected of the batches that each compared strategy would have drawn.",
        _followed("expected_mixed_share"),
    ),
    "shadow_quota_overlap": (
        "Share of the rollouts that each compared strategy would have given to the same prompts.",
        _followed("quota_overlap"),
    ),
}
