"""What happened, for people: tallies, a bounded time series, calibration, and the quota profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import from_json_array, to_json_array
from sampler_service.curriculum.calibration import ScoreBoard

__all__ = ["FINE_BINS", "HISTORY_BINS", "PROFILE_BINS", "History"]

FINE_BINS: Final = 120
"""Bins in which the difficulty histogram is kept; coarser ones are sums of these."""
HISTORY_BINS: Final = 24
PROFILE_BINS: Final = 20
_MAX_POINTS: Final = 512
# How much of the quota profile each new batch leaves standing.
_PROFILE_MEMORY: Final = 0.98
# The same for the exploration floor's groups, per point.
_EXPLORED_MEMORY: Final = 0.95

_SUMS: Final = (
    "groups",
    "mixed_groups",
    "all_correct_groups",
    "all_wrong_groups",
    "rollouts",
    "wasted_rollouts",
    "exploration_rollouts",
    "exploration_groups",
    "exploration_mixed_groups",
    "reward_sum",
    "brier_sum",
    "log_loss_sum",
    "predictions",
)


class History:
    """Sums since the start, and the same sums per point in time.

    A point is one step of the policy; when there are too many, neighbours are merged in pairs, so the
    series stays bounded while its totals stay exact.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = dict.fromkeys(_SUMS, 0.0)
        self.counters: dict[str, int] = {}
        self.rollouts_saved = 0.0
        self._open: dict[str, float] = dict.fromkeys(_SUMS, 0.0)
        self._points: dict[str, list[float]] = {name: [] for name in (*_SUMS, "millis", "policy_versions")}
        self._histograms: list[list[int]] = []
        self._steps_per_point = 1
        self._steps_open = 0
        self.fine_histogram = np.zeros(FINE_BINS, dtype=np.int64)
        self.scores = ScoreBoard()
        self.profile = np.zeros((2, PROFILE_BINS))  # prompts, quota sum
        self.last_mean_reward = 0.5
        self._explored = np.zeros(2)  # groups of the exploration floor, and how many were mixed

    @property
    def points(self) -> int:
        """Length of the time series."""
        return len(self._histograms)

    def count(self, **sums: float) -> None:
        """Adds to the sums, by name."""
        for name, value in sums.items():
            self.totals[name] += value
            self._open[name] += value

    def bump(self, name: str, by: int = 1) -> None:
        """Adds to a counter that has no time series."""
        self.counters[name] = self.counters.get(name, 0) + by

    def score(
        self, estimator: str, predicted: NDArray[Any], positives: NDArray[Any], outcomes: NDArray[Any]
    ) -> None:
        """Scores pass rates that an estimator predicted before their groups came out."""
        scores = self.scores.of(estimator)
        before = scores.brier_sum, scores.log_loss_sum, scores.predictions
        scores.score(predicted, positives, outcomes)
        self.count(
            brier_sum=scores.brier_sum - before[0],
            log_loss_sum=scores.log_loss_sum - before[1],
            predictions=scores.predictions - before[2],
        )

    def profile_quotas(self, pass_rates: NDArray[Any], quotas: NDArray[Any]) -> None:
        """Adds a grant to the profile of quota against pass rate."""
        bins = np.minimum((pass_rates * PROFILE_BINS).astype(np.int64), PROFILE_BINS - 1)
        self.profile *= _PROFILE_MEMORY
        self.profile[0] += np.bincount(bins, minlength=PROFILE_BINS)
        self.profile[1] += np.bincount(bins, weights=quotas, minlength=PROFILE_BINS)

    def close_step(self, millis: int, policy_version: int) -> None:
        """The policy has advanced: the open sums become a point (or join the one being filled)."""
        self.scores.close_step(policy_version)
        step = self._open
        if step["rollouts"] > 0:
            self.last_mean_reward = step["reward_sum"] / step["rollouts"]
        self._steps_open += 1
        if self._steps_open < self._steps_per_point:
            return
        self.rollouts_saved += self._saved(step)
        for name in _SUMS:
            self._points[name].append(step[name])
        self._points["millis"].append(millis)
        self._points["policy_versions"].append(policy_version)
        self._histograms.append(self.fine_histogram.reshape(HISTORY_BINS, -1).sum(axis=1).tolist())
        self._open = dict.fromkeys(_SUMS, 0.0)
        self._steps_open = 0
        if len(self._histograms) >= _MAX_POINTS:
            self._merge_pairs()

    def _saved(self, step: Mapping[str, float]) -> float:
        """Rollouts uniform sampling would have needed for this point's mixed groups, less those spent.

        Its share of mixed groups is measured, not modelled: the groups of the exploration floor, which
        looks at prompts whatever their difficulty, averaged over the last points. Without a floor there
        is nothing to measure, and nothing is claimed.
        """
        if not step["groups"] or not step["mixed_groups"]:
            return 0.0
        self._explored *= _EXPLORED_MEMORY
        self._explored += (step["exploration_groups"], step["exploration_mixed_groups"])
        own_share = step["mixed_groups"] / step["groups"]
        # Two groups' worth of "no difference" steadies the estimate while few were explored.
        share = (self._explored[1] + 2.0 * own_share) / (self._explored[0] + 2.0)
        return step["rollouts"] * (own_share / max(float(share), 0.01) - 1.0)

    def _merge_pairs(self) -> None:
        for name, values in self._points.items():
            pairs = zip(values[0::2], values[1::2], strict=False)
            later = name in ("millis", "policy_versions")
            self._points[name] = [b if later else a + b for a, b in pairs]
        self._histograms = self._histograms[1::2]
        self._steps_per_point *= 2

    def series(self) -> dict[str, NDArray[np.float64]]:
        """The points, and the one that is open if anything happened in it; by name, one entry per point."""
        extra = self._open["rollouts"] > 0
        return {
            name: np.array(values + ([self._open.get(name, 0.0)] if extra else []), dtype=np.float64)
            for name, values in self._points.items()
        }

    def histograms(self) -> NDArray[np.int64]:
        """Difficulty histogram at each closed point, shape (points, HISTORY_BINS)."""
        return np.array(self._histograms, dtype=np.int64).reshape(-1, HISTORY_BINS)

    def recent_mixed_share(self, points: int = 8) -> float:
        """Mixed groups per group over the last points; NaN before the first group."""
        series = self.series()
        groups = series["groups"][-points:].sum()
        return float(series["mixed_groups"][-points:].sum() / groups) if groups else float("nan")

    # -- snapshots -----------------------------------------------------------

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        meta = {
            "totals": self.totals,
            "counters": self.counters,
            "open": self._open,
            "rollouts_saved": self.rollouts_saved,
            "steps_per_point": self._steps_per_point,
            "steps_open": self._steps_open,
            "last_mean_reward": self.last_mean_reward,
        }
        arrays: dict[str, NDArray[Any]] = {
            "meta": to_json_array(meta),
            "histograms": self.histograms(),
            "fine_histogram": self.fine_histogram.copy(),
            "profile": self.profile.copy(),
            "explored": self._explored.copy(),
        }
        arrays |= {f"scores.{name}": array for name, array in self.scores.export().items()}
        return arrays | {f"points.{name}": np.array(v) for name, v in self._points.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """The inverse of `export`."""
        history = cls()
        meta = from_json_array(arrays["meta"])
        history.totals |= meta["totals"]
        history.counters = meta["counters"]
        history._open |= meta["open"]
        history.rollouts_saved = meta["rollouts_saved"]
        history._steps_per_point = meta["steps_per_point"]
        history._steps_open = meta["steps_open"]
        history.last_mean_reward = meta["last_mean_reward"]
        history.fine_histogram = np.array(arrays["fine_histogram"])
        history.scores = ScoreBoard.restore(
            {name[7:]: array for name, array in arrays.items() if name.startswith("scores.")}
        )
        history.profile = np.array(arrays["profile"])
        history._explored = np.array(arrays["explored"])
        history._histograms = arrays["histograms"].tolist()
        for name in history._points:
            # A sum that an older snapshot did not have starts at nothing.
            points = arrays.get(f"points.{name}", np.zeros(len(history._histograms)))
            history._points[name] = points.tolist()
        return history
