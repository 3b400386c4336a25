"""Choices that look random and are the same on every replica: by hashes of ids, with nothing drawn."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["hashed_parts", "hashed_sample"]

# 2^32 and 2^64 divided by the golden ratio: they spread hashes that differ in few bits.
_SPREAD_32: Final = np.uint64(0x9E3779B1)
_SPREAD_64: Final = 0x9E3779B97F4A7C15
_LOW_32_BITS: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)
_HALF: Final = np.uint64(29)


def hashed_parts(hashes: NDArray[Any], parts: int) -> NDArray[np.int64]:
    """A part for each hash, 0 to parts − 1, about equally often."""
    spread = (hashes.astype(np.uint64) * _SPREAD_32) & _LOW_32_BITS
    return ((spread * np.uint64(parts)) >> _32).astype(np.int64)


def hashed_sample(hashes_N: NDArray[Any], seed: int, count: int) -> NDArray[np.int64]:
    """`count` rows as if drawn uniformly without replacement, in the order of the draw. O(N)."""
    keys = hashes_N.astype(np.uint64) + np.uint64((seed + 1) * _SPREAD_64 % 2**64)
    for _ in range(2):
        keys = (keys ^ (keys >> _HALF)) * np.uint64(_SPREAD_64)
    # The row in the low bits: keys are distinct, so their order is one and the same everywhere.
    keys = (keys & ~_LOW_32_BITS) | np.arange(len(keys), dtype=np.uint64)
    count = min(count, len(keys))
    if count < len(keys):
        keys = np.partition(keys, count - 1)[:count] if count else keys[:0]
    return (np.sort(keys) & _LOW_32_BITS).astype(np.int64)
