"""A session over an engine that samples whole batches: what is asked for together ends together."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from trainer_client.rollouts.protocol import RolloutEngine, RolloutGroup, RolloutRequest, SamplingParams


class BatchSession:
    """Samples everything submitted since the last call at once, by the engine's `generate`."""

    def __init__(self, engine: RolloutEngine, sampling: SamplingParams, seed: int) -> None:
        self._engine = engine
        self._sampling = sampling
        self._seed = seed
        self._pending: list[RolloutRequest] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending.clear()

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Keeps the requests for the next batch."""
        self._pending.extend(requests)

    def finished(self, wait_seconds: float | None = None) -> list[RolloutGroup]:
        """The groups of all that was pending, however long they take."""
        del wait_seconds
        requests, self._pending = self._pending, []
        return self._engine.generate(requests, self._sampling, self._seed) if requests else []
