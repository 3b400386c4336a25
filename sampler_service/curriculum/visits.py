"""One prompt's visits, picked out of a log's events without folding them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.leases import LIVE, Lease
from sampler_service.curriculum.state import CurriculumState

__all__ = ["EXPIRED", "OPEN", "OUTSIDE", "RELEASED", "REPORTED", "Visit", "VisitScan"]

# The values of the API's VisitStatus.
OPEN, REPORTED, EXPIRED, RELEASED, OUTSIDE = 1, 2, 3, 4, 5

# The values of the API's RolloutStatus that are outcomes.
_OUTCOMES: Final = (0, 1, 3)


@dataclass(slots=True)
class Visit:
    """One batch that held the prompt, or one report of it outside any."""

    revision: str
    millis: int
    """When it was granted; outside any batch, when it was reported."""
    policy_version: int
    lease_id: str = ""
    trainer_id: str = ""
    slot: int = -1
    source: int = 0
    pass_rate: float = math.nan
    pass_rate_stddev: float = math.nan
    probability: float = math.nan
    quota: int = 0
    rollouts: int = 0
    outcomes: int = 0
    successes: int = 0
    reward_sum: float = 0.0
    report_millis: float = math.nan
    status: int = OPEN
    confirmed: bool = False
    """Whether something later in the log shows that the grant was not void."""

    @property
    def mean_reward(self) -> float:
        """Of the outcomes; NaN without any."""
        return self.reward_sum / self.outcomes if self.outcomes else math.nan


class VisitScan:
    """Takes events in log order and keeps what they say of one row. O(batch) per event, nothing per prompt.

    The log does not hold what an event came to, so that is inferred: a report under a request id that came
    before is a repeat, and a grant that is neither live nor remembered, and of which nothing was reported,
    expired or released, was void.

    Args:
        state: the present one, read in the constructor only. Events of another epoch are passed over: rows
            meant something else, and what a restore undid is no part of the curriculum.
    """

    def __init__(self, state: CurriculumState, row: int) -> None:
        self.unattributed_reports = 0
        self._row = row
        self._epoch = state.epoch
        self._threshold = state.strategy.estimator.success_threshold
        self._visits: list[Visit] = []
        self._by_lease: dict[str, Visit] = {}
        self._requests: set[str] = set()
        self._granted: set[str] = set()
        self._remembered: dict[str, Visit] = {}
        self._statuses: dict[str, int] = {}
        for lease in (*state.leases.closed.values(), *state.leases.live.values()):
            self._granted.add(lease.lease_id)
            if len(slots := np.flatnonzero(lease.rows == row)):
                kept = self._remembered[lease.lease_id] = _remembered(lease, int(slots[0]))
                self._statuses[lease.lease_id] = kept.status

    def take(self, event: log_pb2.Event, revision: str, millis: int) -> None:
        """Looks at the next event."""
        match event.WhichOneof("event"):
            case "batch_granted":
                self._grant(event.batch_granted, revision, millis)
            case "rollouts_reported":
                if event.request_id in self._requests or event.rollouts_reported.epoch != self._epoch:
                    return
                self._requests.add(event.request_id)
                self._report(event.rollouts_reported, revision, millis)
            case "leases_expired":
                self._end(event.leases_expired.lease_ids, EXPIRED)
            case "batch_released":
                self._end([event.batch_released.lease_id], RELEASED)

    def visits(self) -> list[Visit]:
        """What was found, oldest first."""
        for lease_id, kept in self._remembered.items():
            found = self._by_lease.get(lease_id)
            if found is None:
                # Granted before the log begins, and nothing reported since.
                found = kept
                self._visits.append(kept)
            # The state knows better than what the log leaves to be inferred.
            found.status = self._statuses[lease_id]
        known = [visit for visit in self._visits if visit.confirmed or visit.lease_id in self._remembered]
        return sorted(known, key=lambda visit: visit.millis)

    def _grant(self, event: log_pb2.BatchGranted, revision: str, millis: int) -> None:
        if event.epoch != self._epoch or event.lease_id in self._by_lease:
            return
        self._granted.add(event.lease_id)
        slots = np.flatnonzero(from_bytes(event.rows, "i4") == self._row)
        if not len(slots):
            return
        slot = int(slots[0])
        visit = Visit(
            revision,
            millis,
            event.policy_version,
            lease_id=event.lease_id,
            trainer_id=event.trainer_id,
            slot=slot,
            source=int(from_bytes(event.sources, "u1")[slot]),
            pass_rate=float(from_bytes(event.pass_rates, "f4")[slot]),
            pass_rate_stddev=float(from_bytes(event.pass_rate_stddevs, "f4")[slot]),
            probability=float(from_bytes(event.probabilities, "f4")[slot]),
            quota=int(from_bytes(event.quotas, "i4")[slot]),
            # Whatever ended it in silence, it is over unless the state says that it is live.
            status=RELEASED,
        )
        self._by_lease[event.lease_id] = visit
        self._visits.append(visit)

    def _report(self, event: log_pb2.RolloutsReported, revision: str, millis: int) -> None:
        visit: Visit | None = None
        wanted = self._row
        if event.lease_id:
            visit = self._by_lease.get(event.lease_id)
            if visit is None and event.lease_id in self._remembered:
                visit = self._by_lease[event.lease_id] = self._remembered[event.lease_id]
                self._visits.append(visit)
            if visit is None:
                self.unattributed_reports += event.lease_id not in self._granted
                return
            visit.confirmed = True
            wanted = visit.slot
        places = np.flatnonzero(from_bytes(event.slots, "i4") == wanted)
        if not len(places):
            return
        if visit is None:
            visit = Visit(revision, millis, event.policy_version, status=OUTSIDE, confirmed=True)
            self._visits.append(visit)
        self._count(visit, event, int(places[0]))
        visit.report_millis = millis

    def _count(self, visit: Visit, event: log_pb2.RolloutsReported, place: int) -> None:
        counts = from_bytes(event.rollout_counts, "i4")
        start = int(counts[:place].sum(dtype=np.int64))
        stop = start + int(counts[place])
        rewards = from_bytes(event.rewards, "f4")[start:stop].astype(np.float64)
        good = np.isfinite(rewards)
        if event.statuses:
            good &= np.isin(from_bytes(event.statuses, "u1")[start:stop], _OUTCOMES)
        visit.rollouts += len(rewards)
        visit.outcomes += int(good.sum())
        visit.successes += int((rewards[good] > self._threshold).sum())
        visit.reward_sum += float(rewards[good].sum())
        if visit.status != OUTSIDE:
            visit.status = REPORTED

    def _end(self, lease_ids: Iterable[str], status: int) -> None:
        for lease_id in lease_ids:
            visit = self._by_lease.get(lease_id)
            if visit is not None:
                visit.confirmed = True
                if not visit.rollouts:
                    visit.status = status


def _remembered(lease: Lease, slot: int) -> Visit:
    """What the state still knows of a visit; its reports are in the log."""
    if lease.state == LIVE and lease.open[slot]:
        status = OPEN
    elif lease.returned[slot]:
        status = REPORTED
    else:
        status = EXPIRED if lease.state == "expired" else RELEASED
    return Visit(
        "",
        lease.grant_millis,
        lease.policy_version,
        lease_id=lease.lease_id,
        trainer_id=lease.trainer_id,
        slot=slot,
        source=int(lease.sources[slot]),
        pass_rate=float(lease.pass_rates[slot]),
        pass_rate_stddev=float(lease.pass_rate_stddevs[slot]),
        probability=float(lease.probabilities[slot]),
        quota=int(lease.quotas[slot]),
        status=status,
    )
