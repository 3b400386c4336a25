"""Strategies side by side, as a table: of a replay, and of live shadows."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["ComparisonTable", "number"]

_WORDS = ("strategy", "estimator")
_HEADS = (
    *_WORDS,
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


class ComparisonTable:
    """One row per strategy, or one column where the terminal has no room for all figures in a row.

    docs/strategies.md says what the figures are.
    """

    def __init__(self, strategies: Iterable[pb.StrategyReplay]) -> None:
        self._cells = [_figures(one) for one in strategies]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._in_rows()
        if not _fits(table, console, options):
            # Wide names leave no room for a second column: then one after the other.
            abreast = next(
                (n for n in range(len(self._cells), 1, -1) if self._fit_in_columns(n, console, options)), 1
            )
            for start in range(0, len(self._cells), abreast):
                if start:
                    yield ""
                yield self._in_columns(start, abreast)
            return
        yield table

    def _in_rows(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in _HEADS:
            table.add_column(name, no_wrap=True, justify="left" if name in _WORDS else "right")
        for cells in self._cells:
            table.add_row(*cells)
        return table

    def _in_columns(self, start: int, count: int) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column(_HEADS[0], no_wrap=True)
        shown = self._cells[start : start + count]
        for cells in shown:
            table.add_column(cells[0], justify="right", overflow="fold")
        for i, name in enumerate(_HEADS[1:], start=1):
            table.add_row(name, *(cells[i] for cells in shown))
        return table

    def _fit_in_columns(self, count: int, console: Console, options: ConsoleOptions) -> bool:
        starts = range(0, len(self._cells), count)
        return all(_fits(self._in_columns(start, count), console, options) for start in starts)


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    unbounded = options.update(max_width=10_000)
    return Measurement.get(console, unbounded, table).maximum <= options.max_width


def _figures(one: pb.StrategyReplay) -> list[str]:
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
    return [
        one.strategy,
        one.estimator,
        *(number(value, 4) for value in (scores.brier, scores.log_loss)),
        *(number(value, 3) for value in shares),
    ]


def number(value: float, digits: int) -> str:
    """A dash where there is none."""
    return "-" if value != value else f"{value:.{digits}f}"
