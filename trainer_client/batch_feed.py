"""Where the loop gets its batches: made when asked for, or made ahead while it trains."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from trainer_client.batch_source import BatchSource, RolledOut
from trainer_client.publishing import PublishedPolicies
from trainer_client.rollouts import RolloutEngine


class BatchFeed(Protocol):
    """Batches in the order of their steps."""

    def take(self, step: int) -> RolledOut | None:
        """The step's batch, with all earlier ones trained on; None when a stop was asked for."""
        ...

    def publish(self, version: int, folder: Path | None) -> None:
        """The policy has come to `version`; None: the engine shares the learner's weights."""
        ...

    def engine_at_rest(self) -> AbstractContextManager[None]:
        """A block in which the engine is the caller's, and samples from the published policy."""
        ...

    def close(self) -> None:
        """Ends what is under way; its lease is released."""
        ...


class DirectFeed:
    """Rolls out when asked: every batch is sampled from the newest policy.

    planned_replays: for a step, the groups of earlier batches that will join it.
    """

    def __init__(
        self,
        source: BatchSource,
        engine: RolloutEngine,
        published: PublishedPolicies,
        planned_replays: Callable[[int], int],
    ) -> None:
        self._source = source
        self._engine = engine
        self._published = published
        self._planned_replays = planned_replays
        self._version = 0

    def take(self, step: int) -> RolledOut | None:
        """Rolls the batch out now; afterwards the engine gives its memory to the update."""
        rolled = self._source.roll_out(step, self._version, self._planned_replays(step))
        self._engine.rest()
        return rolled

    def publish(self, version: int, folder: Path | None) -> None:
        """Takes effect at once."""
        self._engine.update_policy(version, folder)
        self._published.drop_before(folder)
        self._version = version

    def engine_at_rest(self) -> AbstractContextManager[None]:
        """The engine is idle between steps anyway."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is under way between steps."""


class LookaheadFeed:
    """Rolls out up to `ahead` batches beyond the one being trained on, in a thread of its own.

    Batch k is sampled from version k - ahead or a newer one: with `ahead` 1 the policy is one update old
    at the most. The engine takes a new policy between batches, never within one.
    """

    def __init__(
        self,
        source: BatchSource,
        engine: RolloutEngine,
        published: PublishedPolicies,
        planned_replays: Callable[[int], int],
        *,
        ahead: int,
        steps: int,
    ) -> None:
        self._source = source
        self._engine = engine
        self._published = published
        self._planned_replays = planned_replays
        self._ahead = ahead
        self._steps = steps
        self._changed = threading.Condition()
        self._engine_lock = threading.Lock()
        self._ready: deque[RolledOut | None] = deque()
        self._trained = self._replays = 0
        self._newest: tuple[int, Path | None] = (0, None)
        self._loaded = 0
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def take(self, step: int) -> RolledOut | None:
        """Waits for the step's batch. What went wrong in the thread is raised here."""
        # The buffer is the learner's: the thread only reads the number.
        replays = self._planned_replays(step)
        with self._changed:
            self._trained, self._replays = step, replays
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(step,), name="rollouts", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            while not self._ready and self._error is None:
                self._changed.wait()
            if self._ready:
                return self._ready.popleft()
            assert self._error is not None
            raise self._error

    def publish(self, version: int, folder: Path | None) -> None:
        """Takes effect with the next batch that is begun."""
        with self._changed:
            self._newest = (version, folder)

    @contextmanager
    def engine_at_rest(self) -> Iterator[None]:
        """Waits for the batch under way, then keeps the next one waiting."""
        with self._engine_lock:
            self._load_newest()
            yield

    def close(self) -> None:
        """Lets the batch under way come to its next stop, and waits for the thread."""
        self._source.ending = True
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self, first: int) -> None:
        try:
            for step in range(first, self._steps):
                if not self._wait_for_turn(step):
                    return
                with self._engine_lock:
                    version = self._load_newest()
                    rolled = self._source.roll_out(step, version, self._replays)
                with self._changed:
                    self._ready.append(rolled)
                    self._changed.notify_all()
                if rolled is None:
                    return
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_turn(self, step: int) -> bool:
        with self._changed:
            while not self._closed and step > self._trained + self._ahead:
                self._changed.wait()
            return not self._closed

    def _load_newest(self) -> int:
        """Gives the engine the newest policy, unless it has it; gives its version."""
        with self._changed:
            version, folder = self._newest
        if version != self._loaded:
            self._engine.update_policy(version, folder)
            self._published.drop_before(folder)
            self._loaded = version
        return version
