"""What a summary says of the prompts themselves: counted over the whole pool, in a thread if that is large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.state import CurriculumState

__all__ = ["PoolFigures", "look_at_pool", "ratio"]

_STDDEV_BINS: Final = 30
_LARGEST_STDDEV: Final = 0.3
_BLOCK: Final = 16_384


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Figures that no event keeps up to date."""

    cluster_rates: NDArray[np.float64]
    """Share of successes per cluster, NaN without evidence."""
    uncertainty: pb.Uncertainty


def look_at_pool(state: CurriculumState, bins: int) -> PoolFigures:
    """The figures of all prompts, by `bins` bins of their pass rate. O(N).

    Reads only, so it may run in a thread while events are folded: the figures are then of somewhere in between.
    """
    return PoolFigures(_cluster_rates(state), _uncertainty(state, bins))


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by: no data is not zero."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1e-12), np.nan)


def _cluster_rates(state: CurriculumState) -> NDArray[np.float64]:
    names, size = len(state.cluster_names), state.table.size
    if not names:
        return np.zeros(0)
    clusters, successes, failures = (
        state.table.column(name)[:size] for name in ("clusters", "successes", "failures")
    )
    inside = (clusters >= 0) & (clusters < names)
    right = np.bincount(clusters[inside], weights=successes[inside], minlength=names)
    wrong = np.bincount(clusters[inside], weights=failures[inside], minlength=names)
    return ratio(right, right + wrong)


def _uncertainty(state: CurriculumState, bins: int) -> pb.Uncertainty:
    prior_right, prior_wrong = state.strategy.estimator.prior
    size = state.table.size
    successes, failures = (state.table.column(name)[:size] for name in ("successes", "failures"))
    counts = np.zeros(_STDDEV_BINS, dtype=np.int64)
    sums, prompts = np.zeros(bins), np.zeros(bins)
    for start in range(0, size, _BLOCK):
        right = successes[start : start + _BLOCK]
        wrong = failures[start : start + _BLOCK]
        seen = np.flatnonzero(right + wrong)
        alphas = right[seen].astype(np.float64) + prior_right
        betas = wrong[seen].astype(np.float64) + prior_wrong
        rates, stddevs = alphas / (alphas + betas), _stddev(alphas, betas)
        counts += np.bincount(_bin(stddevs / _LARGEST_STDDEV, _STDDEV_BINS), minlength=_STDDEV_BINS)
        places = _bin(rates, bins)
        sums += np.bincount(places, weights=stddevs, minlength=bins)
        prompts += np.bincount(places, minlength=bins)
    return pb.Uncertainty(
        edges=np.linspace(0.0, _LARGEST_STDDEV, _STDDEV_BINS + 1).tolist(),
        counts=counts.tolist(),
        mean_stddev=float(ratio(sums.sum(), prompts.sum())),
        unseen_stddev=float(_stddev(np.float64(prior_right), np.float64(prior_wrong))),
        mean_stddevs=ratio(sums, prompts).tolist(),
    )


def _stddev(alphas: Any, betas: Any) -> Any:
    """Of Beta(α, β)."""
    total = alphas + betas
    return np.sqrt(alphas * betas / (total + 1.0)) / total


def _bin(shares: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((shares * bins).astype(np.int64), bins - 1)
