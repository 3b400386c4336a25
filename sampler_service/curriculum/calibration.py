"""How good predictions were, per estimator and over time: every one is scored before its outcome counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import from_json_array, to_json_array

__all__ = ["CALIBRATION_BINS", "WINDOW", "EstimatorScores", "ScoreBoard", "rank_correlation"]

CALIBRATION_BINS: Final = 10
WINDOW: Final = 2048
"""Groups over which ranks are compared."""
_MAX_ESTIMATORS: Final = 8
_MAX_POINTS: Final = 256
_SUMS: Final = ("predictions", "brier_sum", "log_loss_sum", "ranked_groups", "rank_sum")


def rank_correlation(predicted: NDArray[Any], observed: NDArray[Any]) -> float:
    """Spearman's ρ, ties at their mean rank; NaN when either is constant. O(n log n)."""
    if len(predicted) < 2:
        return math.nan
    a, b = _ranks(predicted), _ranks(observed)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2.0)[places]
    return ranks


class EstimatorScores:
    """Predictions of one estimator against what came out.

    Brier score and log loss go by rollout, ranks by group: the rate that was observed in it.
    """

    def __init__(self) -> None:
        self.predictions = 0.0
        self.brier_sum = 0.0
        self.log_loss_sum = 0.0
        self.bins = np.zeros((3, CALIBRATION_BINS))
        """Rollouts, sum of the predictions, sum of the outcomes."""
        self.groups = 0
        self._window = np.zeros((2, 0), dtype=np.float32)  # predicted and observed rates
        self._ranked = 0, math.nan  # after how many groups, and what came out
        self._step_groups = 0
        self._step_start = (0.0, 0.0, 0.0)
        self.series: dict[str, list[float]] = {name: [] for name in ("policy_versions", *_SUMS)}
        """A point per step in which something was scored, neighbours merged when there are many."""

    def score(self, predicted: NDArray[Any], positives: NDArray[Any], outcomes: NDArray[Any]) -> None:
        """Scores pass rates predicted before their groups came out. O(groups).

        Args:
            positives: rollouts that were right; fractions where rewards count as fractions.
            outcomes: rollouts, all of them counted.
        """
        p = np.clip(predicted.astype(np.float64), 1e-6, 1.0 - 1e-6)
        k, n = positives.astype(np.float64), outcomes.astype(np.float64)
        misses = n - k
        self.predictions += float(n.sum())
        self.brier_sum += float((k * (1.0 - p) ** 2 + misses * p**2).sum())
        self.log_loss_sum -= float((k * np.log(p) + misses * np.log1p(-p)).sum())
        places = np.minimum((p * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        for row, values in enumerate((n, n * p, k)):
            self.bins[row] += np.bincount(places, weights=values, minlength=CALIBRATION_BINS)
        self._remember(p, k / np.maximum(n, 1.0))

    def _remember(self, predicted: NDArray[np.float64], observed: NDArray[np.float64]) -> None:
        new = np.stack([predicted[-WINDOW:], observed[-WINDOW:]]).astype(np.float32)
        self._window = np.concatenate([self._window, new], axis=1)[:, -WINDOW:]
        self.groups += len(predicted)
        self._step_groups += len(predicted)

    def add(self, other: EstimatorScores) -> None:
        """Counts what another has scored, later, as well; its series is left out."""
        self.predictions += other.predictions
        self.brier_sum += other.brier_sum
        self.log_loss_sum += other.log_loss_sum
        self.bins += other.bins
        self.groups += other.groups
        self._window = np.concatenate([self._window, other._window], axis=1)[:, -WINDOW:]

    def spearman(self) -> float:
        """Over the last groups, at most `WINDOW`."""
        if self._ranked[0] != self.groups:
            self._ranked = self.groups, rank_correlation(*self._window)
        return self._ranked[1]

    @property
    def window_groups(self) -> int:
        """Groups that `spearman` compares."""
        return int(self._window.shape[1])

    def _open_point(self, policy_version: int) -> list[float] | None:
        """What was scored since the last point, if anything."""
        last = min(self._step_groups, self.window_groups)
        if not last:
            return None
        rho = rank_correlation(*self._window[:, -last:])
        now = self.predictions, self.brier_sum, self.log_loss_sum
        sums = [b - a for a, b in zip(self._step_start, now, strict=True)]
        return [float(policy_version), *sums, *((0.0, 0.0) if math.isnan(rho) else (last, rho * last))]

    def close_step(self, policy_version: int) -> None:
        """The policy has advanced: what was scored since the last time becomes a point."""
        point = self._open_point(policy_version)
        if point is None:
            return
        self._step_start = (self.predictions, self.brier_sum, self.log_loss_sum)
        self._step_groups = 0
        for values, value in zip(self.series.values(), point, strict=True):
            values.append(float(value))
        if len(self.series["predictions"]) >= _MAX_POINTS:
            self._merge_pairs()

    def points(self, policy_version: int) -> dict[str, NDArray[np.float64]]:
        """The series, and the point that is open if anything was scored in it."""
        point = self._open_point(policy_version)
        return {
            name: np.array(values if point is None else [*values, point[i]], dtype=np.float64)
            for i, (name, values) in enumerate(self.series.items())
        }

    def _merge_pairs(self) -> None:
        for name, values in self.series.items():
            pairs = zip(values[0::2], values[1::2], strict=False)
            self.series[name] = [b if name == "policy_versions" else a + b for a, b in pairs]

    # -- snapshots -----------------------------------------------------------

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        scalars = [
            self.predictions,
            self.brier_sum,
            self.log_loss_sum,
            float(self.groups),
            float(self._step_groups),
            *self._step_start,
        ]
        return {
            "scalars": np.array(scalars),
            "bins": self.bins.copy(),
            "window": self._window,
            "series": np.array(list(self.series.values()), dtype=np.float64),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> EstimatorScores:
        """The inverse of `export`."""
        scores = cls()
        predictions, brier, loss, groups, step_groups, *start = arrays["scalars"].tolist()
        scores.predictions, scores.brier_sum, scores.log_loss_sum = predictions, brier, loss
        scores.groups, scores._step_groups = int(groups), int(step_groups)
        scores._step_start = (start[0], start[1], start[2])
        scores.bins = np.array(arrays["bins"])
        scores._window = np.array(arrays["window"], dtype=np.float32)
        for name, values in zip(scores.series, arrays["series"].tolist(), strict=True):
            scores.series[name] = values
        return scores


class ScoreBoard:
    """Scores by estimator, the one scored last at the end; the longest unused are forgotten."""

    def __init__(self) -> None:
        self.estimators: dict[str, EstimatorScores] = {}
        self._forgotten = np.zeros((3, CALIBRATION_BINS))

    def of(self, estimator: str) -> EstimatorScores:
        """The scores of an estimator, to add to."""
        names = self.estimators
        if not names or next(reversed(names)) != estimator:
            names[estimator] = names.pop(estimator) if estimator in names else EstimatorScores()
            if len(names) > _MAX_ESTIMATORS:
                self._forgotten += names.pop(next(iter(names))).bins
        return names[estimator]

    @property
    def bins(self) -> NDArray[np.float64]:
        """Of all estimators together, those forgotten too: rollouts, predicted sum, observed sum."""
        bins = self._forgotten.copy()
        for scores in self.estimators.values():
            bins += scores.bins
        return bins

    def close_step(self, policy_version: int) -> None:
        """The policy has advanced."""
        for scores in self.estimators.values():
            scores.close_step(policy_version)

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "names": to_json_array(list(self.estimators)),
            "forgotten": self._forgotten.copy(),
        }
        for number, scores in enumerate(self.estimators.values()):
            arrays |= {f"{number}.{name}": array for name, array in scores.export().items()}
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> ScoreBoard:
        """The inverse of `export`; empty if there is nothing."""
        board = cls()
        if "names" not in arrays:
            return board
        names = from_json_array(arrays["names"])
        board._forgotten = np.array(arrays["forgotten"])
        for number, estimator in enumerate(names):
            prefix = f"{number}."
            own = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
            board.estimators[estimator] = EstimatorScores.restore(own)
        return board
