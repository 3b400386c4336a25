"""Arrays to and from the log's byte columns, and scalars to and from snapshots."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["are_distinct", "distinct", "from_bytes", "from_json_array", "to_bytes", "to_json_array"]


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Each value once, ascending. For batches of rows a sort beats the hash table of `numpy.unique`."""
    if len(values) < 2:
        return values
    ordered = np.sort(values)
    first = np.empty(len(ordered), dtype=np.bool_)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    unique: NDArray[Any] = ordered[first]
    return unique


def are_distinct(values: NDArray[Any]) -> bool:
    """Whether no value comes twice."""
    if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
        return True
    ordered = np.sort(values)
    return bool((ordered[1:] != ordered[:-1]).all())


@cache
def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def to_bytes(array: NDArray[Any], dtype: str) -> bytes:
    """Little-endian bytes of `array` as `dtype`."""
    return np.ascontiguousarray(array, dtype=_little_endian(dtype)).tobytes()


def from_bytes(data: bytes, dtype: str) -> NDArray[Any]:
    """The inverse of `to_bytes`; read-only, nothing is copied.

    Raises:
        ValueError: the length is no multiple of the item size.
    """
    return np.frombuffer(data, dtype=_little_endian(dtype))


def to_json_array(value: object) -> NDArray[np.uint8]:
    """JSON as a column of a snapshot."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return np.frombuffer(text.encode(), dtype=np.uint8)


def from_json_array(array: NDArray[np.uint8]) -> Any:
    """The inverse of `to_json_array`."""
    return json.loads(array.tobytes())
