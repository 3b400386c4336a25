"""What a logit model reads off a prompt: an intercept, known pass rates, and its embedding's main directions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.shared_evidence.base import Memory
from sampler_service.curriculum.table import PromptTable

__all__ = ["fit_directions", "prompt_features"]

Floats = NDArray[np.float64]

_FIT_ROWS: Final = 8192
# A fold does this once: wide embeddings are fitted from fewer prompts than they have dimensions, in under a
# second. The covariance of 4,096 dimensions would take minutes.
_WIDE: Final = 1024
_RATE_COLUMNS: Final = ("reference_pass_rates", "weak_pass_rates", "strong_pass_rates")
# Rates are counts of few rollouts: away from 0 and 1 their logits are finite.
_RATE_MARGIN: Final = 0.1


def fit_directions(table: PromptTable, memory: Memory, most: int) -> None:
    """Fixes, once, the embedding's mean and its `most` main directions; afterwards they never change.

    From at most 8,192 prompts, evenly spaced, 1,024 if they have more dimensions than that; scaled so that the
    first direction has unit variance.
    """
    if "directions" in memory or table.embeddings is None or table.size < 2:
        return
    most_rows = _WIDE if table.embedding_dim > _WIDE else _FIT_ROWS
    rows = np.linspace(0, table.size - 1, min(table.size, most_rows)).astype(np.int64)
    sample = table.embeddings[rows].astype(np.float64)
    mean = sample.mean(axis=0)
    values, vectors = _main_directions(sample - mean)
    if not values[-1] > 0:
        return
    memory["centre"] = mean
    memory["directions"] = vectors[:, ::-1][:, :most] / np.sqrt(values[-1])


def _main_directions(centred: Floats) -> tuple[Floats, Floats]:
    """Variances, ascending, and unit directions as columns. O(rows · dim · min(rows, dim))."""
    count, dim = centred.shape
    if count >= dim or dim <= _WIDE:
        covariance = np.cov(centred, rowvar=False).reshape(dim, dim)
        values, vectors = np.linalg.eigh(covariance)
        return values, vectors
    # The same directions from the products of rows, of which there are fewer.
    values, weights = np.linalg.eigh(centred @ centred.T / (count - 1))
    values = np.maximum(values, 0.0)
    known = values > 1e-10 * values[-1]
    scale = np.where(known, 1.0 / np.sqrt(np.where(known, values, 1.0) * (count - 1)), 0.0)
    return values, centred.T @ weights * scale


def prompt_features(table: PromptTable, rows: NDArray[Any] | slice, memory: Memory) -> Floats:
    """Shape (rows, 1 + 3 + directions). What a prompt lacks is 0: the average prompt's."""
    count = len(range(*rows.indices(table.size))) if isinstance(rows, slice) else len(rows)
    features = np.zeros((count, 1 + len(_RATE_COLUMNS)))
    features[:, 0] = 1.0
    for place, name in enumerate(_RATE_COLUMNS, start=1):
        if table.has(name):
            rates = np.clip(table.column(name)[rows].astype(np.float64), 0.0, 1.0)
            safe = _RATE_MARGIN + (1.0 - 2.0 * _RATE_MARGIN) * rates
            features[:, place] = np.where(np.isnan(rates), 0.0, np.log(safe / (1.0 - safe)))
    if "directions" not in memory or table.embeddings is None:
        return features
    raw = table.embeddings[: table.size][rows].astype(np.float64)
    embedded = (raw - memory["centre"]) @ memory["directions"]
    # A zero vector is a prompt without an embedding.
    embedded[~raw.any(axis=1)] = 0.0
    return np.concatenate([features, embedded], axis=1)
