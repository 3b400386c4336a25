"""Requests that were carried out, and what each came to: the reason why a retry is harmless."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import InvalidArgument

__all__ = ["RequestMemory"]

# The horizon. It is part of the fold: changing it changes what a replica remembers.
_MAX_REQUESTS: Final = 16_384
_MAX_BYTES: Final = 32 * 2**20


class RequestMemory:
    """The last outcomes by request id, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of the outcomes."""
        return self._bytes

    def recall(self, request_id: str, fingerprint: bytes) -> log_pb2.Outcome | None:
        """The first outcome of this request, marked as a duplicate, or None.

        Raises:
            InvalidArgument: the id was used for another request.
        """
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        if entry[0] != fingerprint:
            raise InvalidArgument(
                "REQUEST_ID_REUSED",
                f"request_id = {request_id!r} was used before for a different request. "
                "Choose a new id for a new request, and the same id only to repeat one.",
                "request_id",
            )
        outcome = log_pb2.Outcome.FromString(entry[1])
        outcome.duplicate = True
        return outcome

    def outcomes(self, prefix: str) -> Iterator[tuple[str, log_pb2.Outcome]]:
        """What is remembered under ids that begin with `prefix`: the rest of each id, and its outcome. O(memory)."""
        for id_, (_, data) in self._entries.items():
            if id_.startswith(prefix):
                yield id_[len(prefix) :], log_pb2.Outcome.FromString(data)

    def remember(self, request_id: str, fingerprint: bytes, outcome: log_pb2.Outcome) -> None:
        """Keeps an outcome; the oldest ones go when there are too many."""
        data = outcome.SerializeToString()
        self._entries[request_id] = (fingerprint, data)
        self._bytes += len(data)
        while len(self._entries) > _MAX_REQUESTS or self._bytes > _MAX_BYTES:
            _, (_, oldest) = self._entries.popitem(last=False)
            self._bytes -= len(oldest)

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        ids = [id_.encode() for id_ in self._entries]
        prints = [fingerprint for fingerprint, _ in self._entries.values()]
        data = [outcome for _, outcome in self._entries.values()]
        arrays: dict[str, NDArray[Any]] = {}
        for name, items in (("ids", ids), ("fingerprints", prints), ("outcomes", data)):
            arrays[name] = np.frombuffer(b"".join(items), dtype=np.uint8)
            arrays[f"{name}_lengths"] = np.array([len(item) for item in items], dtype=np.uint32)
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> RequestMemory:
        """The inverse of `export`."""
        columns: list[list[bytes]] = []
        for name in ("ids", "fingerprints", "outcomes"):
            blob, ends = arrays[name].tobytes(), np.cumsum(arrays[f"{name}_lengths"], dtype=np.int64).tolist()
            columns.append([blob[a:b] for a, b in zip([0, *ends], ends, strict=False)])
        memory = cls()
        for id_, fingerprint, outcome in zip(*columns, strict=True):
            memory._entries[id_.decode()] = (fingerprint, outcome)
            memory._bytes += len(outcome)
        return memory
