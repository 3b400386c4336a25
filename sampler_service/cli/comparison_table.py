"""Strategies side by side, as a table: of a replay, and of live shadows."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["comparison_table", "number"]

_HEADS = (
    "Brier",
    "log loss",
    "Spearman",
    "predicted mixed",
    "drawn mixed",
    "quotas",
    "batch",
    "shared mixed",
    "weighted mixed",
)


def comparison_table(strategies: Iterable[pb.StrategyReplay]) -> Table:
    """One row per strategy; docs/strategies.md says what the columns are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("estimator", no_wrap=True)
    for name in _HEADS:
        table.add_column(name, justify="right")
    for one in strategies:
        scores = one.calibration
        shares = (
            scores.spearman,
            one.predicted_mixed_share,
            one.expected_mixed_share,
            one.quota_overlap,
            one.batch_overlap,
            one.shared_mixed_share,
            one.weighted_mixed_share,
        )
        table.add_row(
            one.strategy,
            one.estimator,
            *(number(value, 4) for value in (scores.brier, scores.log_loss)),
            *(number(value, 3) for value in shares),
        )
    return table


def number(value: float, digits: int) -> str:
    """A dash where there is none."""
    return "-" if value != value else f"{value:.{digits}f}"
