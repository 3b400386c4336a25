"""What is in flight: granted batches, slot by slot, until every prompt is reported, released or expired."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import from_json_array, to_json_array

__all__ = ["LIVE", "Lease", "LeaseBook"]

LIVE: Final = "live"

# Closed leases remembered: long enough for late reports and for ranks that ask late for the same batch.
_CLOSED_LEASES: Final = 256

# Slot columns: type and whether the grant gives them (the others start at 0).
_SLOT_COLUMNS: Final[dict[str, tuple[Any, bool]]] = {
    "rows": (np.int32, True),
    "quotas": (np.int32, True),
    "pass_rates": (np.float32, True),
    "pass_rate_stddevs": (np.float32, True),
    "baselines": (np.float32, True),
    "probabilities": (np.float32, True),
    "sources": (np.uint8, True),
    "granted": (np.int32, False),
    "returned": (np.int32, False),
    "positives": (np.int32, False),
    "negatives": (np.int32, False),
    "rounds": (np.int32, False),
    "reward_sums": (np.float64, False),
    "reward_squares": (np.float64, False),
    "reward_minima": (np.float64, False),
    "reward_maxima": (np.float64, False),
    "open": (np.bool_, False),
}


@dataclass(slots=True, eq=False)
class Lease:
    """One granted batch; arrays have one entry per slot."""

    key: int
    lease_id: str
    trainer_id: str
    policy_version: int
    grant_millis: int
    expire_millis: int
    budget: int
    """Rollouts the lease may use, all rounds."""
    policy_step: int
    """How often the policy had advanced at the grant."""
    notes: list[str]

    rows: NDArray[np.int32]
    quotas: NDArray[np.int32]
    """Granted in the first round; 0 for prompts held back to refill the batch."""
    pass_rates: NDArray[np.float32]
    """Predicted when drawn."""
    pass_rate_stddevs: NDArray[np.float32]
    baselines: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    sources: NDArray[np.uint8]

    granted: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Rollouts granted in all rounds."""
    returned: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Rollouts reported, whatever became of them."""
    positives: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    negatives: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Outcomes; rollouts that failed are in neither."""
    rounds: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    reward_sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    reward_squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    reward_minima: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    reward_maxima: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    open: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Waiting for rollouts."""
    state: str = LIVE
    """live, closed, released or expired."""
    estimator: str = ""
    """Which one predicted the pass rates; empty in leases of old."""

    def begin(self) -> Lease:
        """Sets the bookkeeping of a new lease."""
        count = len(self.rows)
        for name, (dtype, given) in _SLOT_COLUMNS.items():
            if not given:
                setattr(self, name, np.zeros(count, dtype=dtype))
        self.granted[:] = self.quotas
        self.rounds[:] = self.quotas > 0
        self.open[:] = True
        self.reward_minima[:] = np.inf
        self.reward_maxima[:] = -np.inf
        return self

    @property
    def outcomes(self) -> NDArray[np.int32]:
        """Counted rollouts per slot."""
        total: NDArray[np.int32] = self.positives + self.negatives
        return total

    @property
    def unspent(self) -> int:
        """Rollouts of the budget that no slot has been granted."""
        return self.budget - int(self.granted.sum())


class LeaseBook:
    """All live leases, and the last closed ones."""

    def __init__(self) -> None:
        self.live: dict[str, Lease] = {}
        self.closed: OrderedDict[str, Lease] = OrderedDict()
        self.next_key = 0

    def add(self, lease: Lease) -> None:
        """Takes in a new live lease."""
        self.live[lease.lease_id] = lease
        self.next_key = max(self.next_key, lease.key + 1)

    def close(self, lease: Lease, state: str) -> None:
        """Moves a lease to the closed ones; the oldest of those is forgotten."""
        lease.state = state
        self.live.pop(lease.lease_id, None)
        self.closed[lease.lease_id] = lease
        while len(self.closed) > _CLOSED_LEASES:
            self.closed.popitem(last=False)

    def get(self, lease_id: str) -> Lease | None:
        """A lease that is live or remembered."""
        return self.live.get(lease_id) or self.closed.get(lease_id)

    def expired(self, millis: int) -> list[str]:
        """Live leases whose time is over at `millis`."""
        return [lease.lease_id for lease in self.live.values() if lease.expire_millis <= millis]

    # -- snapshots -----------------------------------------------------------

    def _all(self) -> Iterable[Lease]:
        yield from self.closed.values()
        yield from self.live.values()

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        leases = list(self._all())
        scalars = [
            {
                name: getattr(lease, name)
                for name in (
                    "key", "lease_id", "trainer_id", "policy_version", "grant_millis", "expire_millis",
                    "budget", "policy_step", "notes", "state", "estimator",
                )
            }
            for lease in leases
        ]  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "meta": to_json_array({"leases": scalars, "next_key": self.next_key}),
            "sizes": np.array([len(lease.rows) for lease in leases], dtype=np.int64),
        }
        for name, (dtype, _) in _SLOT_COLUMNS.items():
            parts = [getattr(lease, name) for lease in leases]
            arrays[name] = np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> LeaseBook:
        """The inverse of `export`."""
        book = cls()
        meta = from_json_array(arrays["meta"])
        ends = np.cumsum(arrays["sizes"]).tolist()
        start = 0
        for scalars, end in zip(meta["leases"], ends, strict=True):
            columns: dict[str, Any] = {name: np.array(arrays[name][start:end]) for name in _SLOT_COLUMNS}
            lease = Lease(**scalars, **columns)
            (book.live if lease.state == LIVE else book.closed)[lease.lease_id] = lease
            start = end
        book.next_key = meta["next_key"]
        return book
