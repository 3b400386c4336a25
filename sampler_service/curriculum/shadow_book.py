"""How shadow strategies have done, as the log says: computed outside the fold, entered into it as reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_json_array, to_json_array
from sampler_service.curriculum.calibration import CALIBRATION_BINS
from sampler_service.curriculum.errors import Aborted, InvalidArgument

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine
    from sampler_service.curriculum.state import CurriculumState

__all__ = ["IN_FORCE", "ShadowBook", "ShadowRecord", "apply", "check"]

IN_FORCE: Final = "in force"
"""The name under which the strategy that is served is listed; no shadow can have it."""
_MOST_STRATEGIES: Final = 16
_MAX_POINTS: Final = 128
_SERIES: Final = ("predictions", "brier_sum", "planned_prompts", "expected_mixed")


def _no_bins() -> NDArray[np.float64]:
    return np.zeros((3, CALIBRATION_BINS))


@dataclass(slots=True)
class ShadowRecord:
    """What has been reported of one strategy."""

    estimator: str = ""
    sums: dict[str, float] = field(default_factory=dict)
    """By name, as `StrategyFigures.sums` has them."""
    bins: NDArray[np.float64] = field(default_factory=_no_bins)
    """Rollouts, sum of the predictions, sum of the outcomes, per bin of the predicted pass rate."""
    spearman: float = float("nan")
    spearman_groups: int = 0
    policy_versions: list[int] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _SERIES})
    """Sums per point; neighbours are merged when there are many."""

    def add(self, reported: log_pb2.ShadowSums, policy_version: int) -> None:
        """Takes in a report."""
        self.estimator = reported.estimator
        for name, value in sorted(reported.sums.items()):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.bins = self.bins + np.array(reported.bins).reshape(3, CALIBRATION_BINS)
        self.spearman, self.spearman_groups = reported.spearman, reported.spearman_groups
        if not self.policy_versions or self.policy_versions[-1] != policy_version:
            if len(self.policy_versions) >= _MAX_POINTS:
                self._merge_pairs()
            self.policy_versions.append(policy_version)
            for values in self.series.values():
                values.append(0.0)
        for name, values in self.series.items():
            values[-1] += reported.sums.get(name, 0.0)

    def _merge_pairs(self) -> None:
        self.policy_versions = self.policy_versions[1::2]
        for name, values in self.series.items():
            self.series[name] = [a + b for a, b in zip(values[0::2], values[1::2], strict=True)]


class ShadowBook:
    """The comparison since the strategy last changed; empty of records while nobody has reported.

    Args:
        revision: where it begins, and when.
    """

    def __init__(self, revision: str = "", millis: int = 0) -> None:
        self.since_revision = revision
        self.since_millis = millis
        self.revision = revision
        """Up to where the log has been counted."""
        self.number = 0
        """Reports so far."""
        self.reported_revision = ""
        """The last report's own place in the log."""
        self.reported_millis = 0
        self.batches = 0
        self.compared_batches = 0
        self.records: dict[str, ShadowRecord] = {}

    def record(self, name: str) -> ShadowRecord:
        """Of one strategy; without any figure before the first report."""
        return self.records.get(name) or ShadowRecord()

    # -- snapshots -----------------------------------------------------------

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        scalars = ("since_revision", "since_millis", "revision", "number", "reported_revision",
                   "reported_millis", "batches", "compared_batches")  # fmt: skip
        meta: dict[str, Any] = {name: getattr(self, name) for name in scalars}
        meta["records"] = [
            {
                "name": name,
                "estimator": one.estimator,
                "sums": one.sums,
                "spearman": None if np.isnan(one.spearman) else one.spearman,
                "spearman_groups": one.spearman_groups,
                "policy_versions": one.policy_versions,
                "series": one.series,
            }
            for name, one in self.records.items()
        ]
        arrays = {"meta": to_json_array(meta)}
        return arrays | {f"bins.{i}": one.bins.copy() for i, one in enumerate(self.records.values())}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> ShadowBook:
        """The inverse of `export`; empty from a snapshot that knew of none."""
        book = cls()
        if "meta" not in arrays:
            return book
        meta = from_json_array(arrays["meta"])
        for number, record in enumerate(meta.pop("records")):
            name, spearman = record.pop("name"), record.pop("spearman")
            book.records[name] = ShadowRecord(
                **record,
                bins=np.array(arrays[f"bins.{number}"]),
                spearman=float("nan") if spearman is None else spearman,
            )
        for name, value in meta.items():
            setattr(book, name, value)
        return book


# -- in the fold -----------------------------------------------------------------------


def check(state: CurriculumState, event: log_pb2.ShadowsScored) -> None:
    """Refuses a report of another comparison, or one that somebody else was faster with.

    Raises:
        Aborted: the strategy has changed, the curriculum was restored, or another report came first.
        InvalidArgument: the report does not fit together.
    """
    book = state.shadows
    named = (event.epoch, event.since_revision, event.number)
    if named != (state.epoch, book.since_revision, book.number):
        raise Aborted("SHADOWS_CHANGED", "Another report on the shadow strategies came first.")
    if len(event.strategies) > _MOST_STRATEGIES or not _fits(event.strategies):
        raise InvalidArgument("INVALID_SHADOWS", "The report on the shadow strategies does not fit together.")


def _fits(strategies: Iterable[log_pb2.ShadowSums]) -> bool:
    return all(
        len(one.bins) == 3 * CALIBRATION_BINS and np.isfinite([*one.sums.values(), *one.bins]).all()
        for one in strategies
    )


def apply(machine: CurriculumMachine, event: log_pb2.ShadowsScored) -> log_pb2.Outcome:
    """Adds what is reported."""
    state, book = machine.state, machine.state.shadows
    book.number += 1
    book.revision = event.revision
    book.reported_revision, book.reported_millis = state.revision, state.millis
    book.batches += event.batches
    book.compared_batches += event.compared_batches
    for one in event.strategies:
        book.records.setdefault(one.name, ShadowRecord()).add(one, state.policy_version)
    return log_pb2.Outcome()
