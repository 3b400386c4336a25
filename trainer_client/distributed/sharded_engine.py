"""Every rank samples its share of a batch with an engine of its own; every rank sees all of it.

Which rank samples what follows from the requests and from what is done, which all ranks know: nothing is
negotiated. A completion's seed is its prompt's, so the split decides only where it is made.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer_client.distributed.shared import merged, on_all
from trainer_client.distributed.world import World, shares
from trainer_client.rollouts import (
    RolloutEngine,
    RolloutGroup,
    RolloutRequest,
    RolloutSession,
    SamplingParams,
)

# How long a rank waits for a group of its own before it hears what others have: short against a rollout,
# long against the exchange.
EXCHANGE_SECONDS = 0.05


class ShardedEngine:
    """The engines of all ranks as one. Each method must be called on every rank, in the same order."""

    def __init__(self, world: World, engine: RolloutEngine) -> None:
        self._world = world
        self._engine = engine

    def session(self, sampling: SamplingParams, seed: int) -> RolloutSession:
        """Groups as they end, on whatever rank."""
        return ShardedSession(self._world, self._engine, sampling, seed)

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """One group per request, in the order asked, on every rank."""
        plan = shares([request.n for request in requests], self._world.size)
        mine = [requests[place] for place in plan[self._world.rank]]
        parts = on_all(self._world, lambda: self._engine.generate(mine, sampling, seed) if mine else [])
        return merged(plan, parts)

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Samples from `version` from now on, on every rank."""
        on_all(self._world, lambda: self._engine.update_policy(version, adapter))

    def rest(self) -> None:
        """Gives memory back until the next request."""
        on_all(self._world, self._engine.rest)

    def close(self) -> None:
        """Frees what this rank's engine holds."""
        self._engine.close()


class ShardedSession:
    """Requests shared out over the ranks' engines, each to the rank with the fewest rollouts to make."""

    def __init__(self, world: World, engine: RolloutEngine, sampling: SamplingParams, seed: int) -> None:
        self._world = world
        self._session = engine.session(sampling, seed)
        self._entered = False
        self._pending: list[RolloutRequest] = []
        self._loads = [0] * world.size
        """Rollouts in flight, by rank."""
        self._ranks: dict[str, list[tuple[int, int]]] = {}
        """Of every prompt's requests in flight: rank and rollouts, in the order asked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending.clear()
        if self._entered:
            self._session.__exit__(kind, error, trace)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Shares the requests out; the engines have them with the next `finished`."""
        mine = []
        for place in sorted(range(len(requests)), key=lambda place: (-requests[place].n, place)):
            request = requests[place]
            rank = min(range(self._world.size), key=lambda rank: (self._loads[rank], rank))
            self._loads[rank] += request.n
            self._ranks.setdefault(request.prompt_id, []).append((rank, request.n))
            if rank == self._world.rank:
                mine.append(place)
        self._pending.extend(requests[place] for place in sorted(mine))

    def finished(self, wait_seconds: float | None = None) -> list[RolloutGroup]:
        """The groups done on any rank, in the order of ranks; waits for one. Empty: nothing is in flight.

        wait_seconds: after about so long it gives none, on every rank. An error of one rank's engine is raised
        on all of them.
        """
        # Counted, not timed: clocks would tell ranks apart.
        left = math.inf if wait_seconds is None else max(1, round(wait_seconds / EXCHANGE_SECONDS))
        while self._ranks and left > 0:
            parts = on_all(self._world, self._mine)
            if any(parts):
                return [self._done(rank, group) for rank, part in enumerate(parts) for group in part]
            left -= 1
        return []

    def _mine(self) -> list[RolloutGroup]:
        # Here, since what fails here fails on all ranks.
        if not self._entered:
            self._session.__enter__()
            self._entered = True
        pending, self._pending = self._pending, []
        self._session.submit(pending)
        return self._session.finished(EXCHANGE_SECONDS)

    def _done(self, rank: int, group: RolloutGroup) -> RolloutGroup:
        requests = self._ranks[group.prompt_id]
        place = next(index for index, (asked, _) in enumerate(requests) if asked == rank)
        self._loads[rank] -= requests.pop(place)[1]
        if not requests:
            del self._ranks[group.prompt_id]
        return group
