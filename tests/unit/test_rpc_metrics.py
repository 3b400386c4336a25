"""Figures of curricula for Prometheus: names, labels, and a bound on how many."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, generate_latest

from sampler_service.replica import CurriculumStatistics
from sampler_service.replica.curriculum_statistics import EstimatorFigures
from sampler_service.rpc.metrics import OTHERS, CurriculumCollector


def figures(name: str, **changes: object) -> CurriculumStatistics:
    values: dict[str, object] = {
        "curriculum_id": name,
        "revision": "1-0",
        "prompts": 10,
        "in_flight": 2,
        "unseen": 3,
        "live_leases": 1,
        "counters": {"duplicates": 4, "leases_expired": 5, "rollouts_truncated": 6},
        "totals": {
            "rollouts": 100.0,
            "mixed_groups": 7.0,
            "wasted_rollouts": 60.0,
            "predictions": 80.0,
            "brier_sum": 20.0,
        },
        "table_bytes": 640,
        "events_folded": 8,
        "fold_seconds": 0.25,
        "snapshot_age_seconds": 9.0,
        "stale": False,
        "lag_seconds": 0.5,
        "snapshot_bytes": 4096,
        "pass_rate_edges": (0.5, 1.0),
        "pass_rate_counts": (4, 3),
        "recent_mixed_share": 0.25,
        "rollouts_saved": -3.0,
        "scores": {"item_response+none#1f00aa": EstimatorFigures(100.0, 20.0, 60.0, 0.75)},
        "shadows": {},
    }
    return CurriculumStatistics(**(values | changes))  # type: ignore[arg-type]


def exposed(*statistics: CurriculumStatistics, max_curricula: int = 100) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(CurriculumCollector(lambda: statistics, max_curricula))
    return registry


def test_every_figure_is_there_under_its_name() -> None:
    registry = exposed(figures("a"))
    expected = {
        "prompts": 10,
        "prompts_in_flight": 2,
        "prompts_unseen": 3,
        "leases_live": 1,
        "table_bytes": 640,
        "snapshot_age_seconds": 9,
        "snapshot_bytes": 4096,
        "lag_seconds": 0.5,
        "mixed_group_share": 0.25,
        "rollouts_saved": -3,
        "wasted_rollouts_total": 60,
        "predictions_total": 80,
        "squared_prediction_error_total": 20,
        "leases_expired_total": 5,
        "duplicates_total": 4,
        "fold_seconds_total": 0.25,
        "events_folded_total": 8,
    }
    for name, value in expected.items():
        assert registry.get_sample_value(f"curriculum_{name}", {"curriculum": "a"}) == value
    for status, value in {"ok": 94, "truncated": 6, "error": 0}.items():
        labels = {"curriculum": "a", "status": status}
        assert registry.get_sample_value("curriculum_rollouts_total", labels) == value
    labels = {"curriculum": "a", "estimator": "item_response+none#1f00aa"}
    for name, value in {
        "estimator_predictions_total": 100,
        "estimator_brier_total": 20,
        "estimator_log_loss_total": 60,
        "estimator_spearman": 0.75,
    }.items():
        assert registry.get_sample_value(f"curriculum_{name}", labels) == value
    labels = {"curriculum": "a", "outcome": "mixed"}
    assert registry.get_sample_value("curriculum_groups_total", labels) == 7


def test_pass_rates_are_a_histogram_of_the_pool() -> None:
    registry = exposed(figures("a"), figures("b"), figures("c"), max_curricula=1)
    for label, factor in (("a", 1), (OTHERS, 2)):
        for edge, prompts in (("0.5", 4), ("1", 7), ("+Inf", 7)):
            labels = {"curriculum": label, "le": edge}
            assert registry.get_sample_value("curriculum_pass_rate_bucket", labels) == factor * prompts


def test_without_a_snapshot_there_is_no_age() -> None:
    registry = exposed(figures("a", snapshot_age_seconds=math.nan))
    assert registry.get_sample_value("curriculum_snapshot_age_seconds", {"curriculum": "a"}) is None


def test_curricula_beyond_the_limit_share_one_label() -> None:
    registry = exposed(*(figures(f"c{i}") for i in range(5)), max_curricula=2)
    assert registry.get_sample_value("curriculum_prompts", {"curriculum": "c1"}) == 10
    assert registry.get_sample_value("curriculum_prompts", {"curriculum": "c2"}) is None
    assert registry.get_sample_value("curriculum_prompts", {"curriculum": OTHERS}) == 30
    assert (
        registry.get_sample_value("curriculum_rollouts_total", {"curriculum": OTHERS, "status": "ok"}) == 282
    )


def test_names_that_need_escaping_stay_on_their_line() -> None:
    lines = generate_latest(exposed(figures('a"b\n}'))).decode().splitlines()
    assert any(line.startswith('curriculum_prompts{curriculum="a\\"b\\n}"}') for line in lines)
