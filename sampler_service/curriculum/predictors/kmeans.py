"""k-means over embeddings: clusters for pools that come without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["k_means", "nearest_centre"]


def nearest_centre(
    points_ND: NDArray[Any], centres_KD: NDArray[np.float64], block: int = 16_384
) -> NDArray[np.int32]:
    """Index of the nearest centre of every point. O(N·K·D), in blocks."""
    labels = np.zeros(len(points_ND), dtype=np.int32)
    squares = (centres_KD * centres_KD).sum(axis=1)
    for start in range(0, len(points_ND), block):
        part = points_ND[start : start + block].astype(np.float64)
        labels[start : start + block] = (squares - 2.0 * part @ centres_KD.T).argmin(axis=1)
    return labels


def k_means(
    points_ND: NDArray[Any],
    k: int,
    rng: np.random.Generator,
    rounds: int = 25,
    start: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Lloyd's algorithm from k-means++ seeds.

    Args:
        start: centres to begin from instead; centre i then stays close to what it was.

    Returns:
        centres, shape (min(k, N), D), and the label of every point.
    """
    points = points_ND.astype(np.float64)
    k = min(k, len(points))
    if k == 0:
        return np.zeros((0, points.shape[1])), np.zeros(0, dtype=np.int32)
    if start is not None and len(start) == k:
        return _lloyd(points, start, rounds)
    centres = points[[int(rng.integers(len(points)))]]
    distances = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < k:
        total = distances.sum()
        odds = distances / total if total > 0 else np.full(len(points), 1.0 / len(points))
        chosen = points[int(rng.choice(len(points), p=odds))]
        centres = np.concatenate([centres, chosen[None]])
        distances = np.minimum(distances, ((points - chosen) ** 2).sum(axis=1))
    return _lloyd(points, centres, rounds)


def _lloyd(
    points: NDArray[np.float64], centres: NDArray[np.float64], rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    k = len(centres)
    labels = nearest_centre(points, centres)
    for _ in range(rounds):
        counts = np.bincount(labels, minlength=k)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, points)
        # A centre that lost all its points stays where it was.
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        following = nearest_centre(points, centres)
        if np.array_equal(following, labels):
            break
        labels = following
    return centres, labels
