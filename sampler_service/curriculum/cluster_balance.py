"""Evening out what share of a weighted draw each cluster gets (ours)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClusterBalance"]


class ClusterBalance:
    """Factors on weights by which a cluster of weight M has a share proportional to M^(1 − balance).

    They are made when the whole pool is weighed and hold until it is weighed again, so a draw costs
    nothing more. Prompts without a cluster are together one more.

    Args:
        clusters_N: −1 for none.
        weights_N: non-negative.
        balance: 0 changes nothing, 1 gives all clusters that have weight the same share.
    """

    def __init__(self, clusters_N: NDArray[Any], weights_N: NDArray[np.float64], balance: float) -> None:
        count = int(clusters_N.max(initial=-1)) + 1
        sums = np.bincount(clusters_N.astype(np.int64) + 1, weights_N, minlength=count + 1)
        known = sums > 0
        factors = np.ones(len(sums))
        if known.any():
            # Relative to the heaviest: its weights stay, no other's rise above 1 by much.
            with np.errstate(over="ignore"):
                factors[known] = (sums[known].max() / sums[known]) ** balance
        self._factors = np.minimum(factors, 1e100)

    def factors(self, clusters: NDArray[Any]) -> NDArray[np.float64]:
        """Of prompts of these clusters; 1 for a cluster that is new since."""
        at = clusters.astype(np.int64) + 1
        inside = at < len(self._factors)
        return np.where(inside, self._factors[np.where(inside, at, 0)], 1.0)
