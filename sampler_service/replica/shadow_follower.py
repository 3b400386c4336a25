"""Follows one curriculum's log under its shadow strategies, and reports how they do."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.checkpoints import adopt_checkpoint, require_checkpoint
from sampler_service.curriculum.comparison import Comparison
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.curriculum.shadow import FollowedStrategy
from sampler_service.curriculum.shadow_book import IN_FORCE
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.log import START, is_after, revision_millis
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.memory import estimated_bytes
from sampler_service.replica.replaying import begin_state
from sampler_service.replica.restoring import bring_embeddings, load_state

__all__ = ["ShadowFollower", "Superseded"]

_PAGE = 64
# So long a thread may keep a processor before others get it.
_SLICE_SECONDS = 0.1


class Superseded(Exception):
    """Another process reports on these shadows, or they are others by now."""


@dataclass(slots=True)
class _Entry:
    event: log_pb2.Event
    revision: str


class ShadowFollower:
    """A second reader of a replica's log, with folds of its own, from the oldest snapshot on that the log reaches.

    Whatever lies before the last report in the log is folded and not counted: the strategies learn from it. What
    lies after it is counted, whoever followed then. Reports are events; their number lets one of several
    followers win.
    """

    def __init__(self, replica: CurriculumReplica, report_seconds: float, compare_within_millis: int) -> None:
        self._replica = replica
        self._machine = replica.machine
        self._compare_within_millis = compare_within_millis
        self._report_seconds = report_seconds
        book = replica.state.shadows
        self._epoch, self._since = replica.state.epoch, book.since_revision
        self._strategies = {name: one.strategy for name, one in replica.state.strategy.shadows.items()}
        self._number = book.number
        self._count_after = book.revision
        self._token = secrets.token_bytes(8)
        self._position = START
        self._comparison: Comparison | None = None
        self._counting = False
        self._told: dict[str, tuple[dict[str, float], np.ndarray]] = {}
        """Sums and bins that the reports so far come to, by strategy."""
        self._told_batches = (0, 0)
        self._unanswered: log_pb2.Event | None = None
        self._reported = float("-inf")

    @property
    def behind(self) -> bool:
        """Whether there is something to fold."""
        return self._position != self._replica.state.revision

    @property
    def nbytes(self) -> int:
        """Memory of the folds, estimated."""
        followed = [] if self._comparison is None else self._comparison.followed
        return sum(estimated_bytes(one.state) for one in followed)

    # -- folding ---------------------------------------------------------------

    async def open(self) -> None:
        """Says that somebody follows, and loads what the log begins with.

        Raises:
            Superseded: another process was faster.
            LogError: the log cannot be used right now.
        """
        await self._report()
        horizon = await self._replica.log.horizon()
        if horizon != START:
            _, base = await load_state(self._replica.store, horizon)
            await self._compare_from(base)
            self._position = horizon

    async def follow_on(self) -> float:
        """Folds what the replica has folded by now, a slice of it at most, and reports if it is time to.

        Returns:
            processor time spent in a thread, in seconds.

        Raises:
            Superseded: another process reports on these shadows, or they are others by now.
            LogError: the log cannot be used right now, or was trimmed where this had not come yet.
        """
        self._require_ours()
        spent = 0.0
        if self.behind:
            target = self._replica.state.revision
            page = [
                _Entry(log_pb2.Event.FromString(entry.payload), entry.id)
                for entry in await self._replica.log.read(self._position, _PAGE)
                if not is_after(entry.id, target)
            ]
            spent = await self._fold(page)
        if self._is_due() and (self.behind or self._has_news()):
            await self._report()
        return spent

    def _is_due(self) -> bool:
        # The first figures at once: somebody has just set the shadows, and looks.
        first = not self._told and not self.behind
        return first or time.monotonic() - self._reported >= self._report_seconds

    def _require_ours(self) -> None:
        state = self._replica.state
        if self._replica.machine is not self._machine:
            raise Superseded  # Loaded anew: what was followed may not be in the log any more.
        ours = (self._epoch, self._since) == (state.epoch, state.shadows.since_revision)
        if not ours or (self._unanswered is None and state.shadows.number != self._number):
            raise Superseded

    async def _fold(self, page: list[_Entry]) -> float:
        started, used = time.perf_counter(), 0.0
        while page and time.perf_counter() - started < _SLICE_SECONDS:
            if self._comparison is None:
                first = page.pop(0)
                await self._compare_from(await begin_state(self._replica, first.event, first.revision))
                self._position = first.revision
            elif page[0].event.WhichOneof("event") == "checkpoint_restored":
                await self._go_back(page.pop(0))
            else:
                await self._prepare(page[0].event)
                others = [
                    number
                    for number, entry in enumerate(page)
                    if number
                    and entry.event.WhichOneof("event") in ("checkpoint_restored", "strategy_updated")
                ]
                run = page[: others[0]] if others else page
                folded, seconds = await asyncio.to_thread(self._fold_slice, self._comparison, run, started)
                del page[:folded]
                used += seconds
        return used

    def _fold_slice(self, comparison: Comparison, run: list[_Entry], started: float) -> tuple[int, float]:
        """In a thread: folds entries until the slice's time is over; how many, and the processor time it took."""
        newest, before, folded = self._replica.state.millis, time.thread_time(), 0
        for entry in run:
            if not self._counting and self._counts(comparison, entry):
                comparison.forget()
                self._counting = True
            millis = revision_millis(entry.revision)
            fresh = newest - millis <= self._compare_within_millis
            comparison.fold(entry.event, entry.revision, millis, compare=self._counting and fresh)
            self._position = entry.revision
            folded += 1
            if time.perf_counter() - started >= _SLICE_SECONDS:
                break
        return folded, time.thread_time() - before

    def _counts(self, comparison: Comparison, entry: _Entry) -> bool:
        state = comparison.state
        return (state.epoch, state.shadows.since_revision) == (self._epoch, self._since) and is_after(
            entry.revision, self._count_after
        )

    async def _compare_from(self, base: CurriculumState) -> None:
        rng = np.random.default_rng()
        self._comparison = await asyncio.to_thread(Comparison, base, self._strategies, IN_FORCE, rng)
        self._counting = False
        for one in self._comparison.followed:
            await self._bring_embeddings(one)

    async def _bring_embeddings(self, one: FollowedStrategy) -> None:
        if one.wanted.uses_embeddings or one.state.strategy.uses_embeddings:
            await bring_embeddings(self._replica.store, one.state)

    async def _prepare(self, event: log_pb2.Event) -> None:
        """Loads what the next strategy in force reads and the present one did not."""
        assert self._comparison is not None
        if event.WhichOneof("event") != "strategy_updated":
            return
        if Strategy.from_json(event.strategy_updated.strategy_json).uses_embeddings:
            await bring_embeddings(self._replica.store, self._comparison.state)

    async def _go_back(self, entry: _Entry) -> None:
        """What the trainer went back from was not what it went on with: the comparison begins anew."""
        assert self._comparison is not None
        machine, millis = self._comparison.machine, revision_millis(entry.revision)
        present = machine.state
        outcome = machine.apply(entry.event, entry.revision, millis)
        if not outcome.HasField("refusal") and not outcome.duplicate:
            checkpoint = require_checkpoint(present, entry.event.checkpoint_restored.checkpoint_id)
            _, kept = await load_state(self._replica.store, checkpoint["revision"])
            await self._compare_from(adopt_checkpoint(kept, present))
            self._comparison.machine.apply(entry.event, entry.revision, millis)
        self._position = entry.revision

    # -- reporting ---------------------------------------------------------------

    def _has_news(self) -> bool:
        if self._unanswered is not None:
            return True
        return self._counting and any(
            sums != self._told.get(name, ({}, None))[0] for name, (sums, _) in self._sums().items()
        )

    def _sums(self) -> dict[str, tuple[dict[str, float], np.ndarray]]:
        assert self._comparison is not None
        return {
            one.figures.name: (one.collect().sums(), one.figures.scores.bins.copy())
            for one in self._comparison.followed
        }

    async def _report(self) -> None:
        """Writes what has been counted since the last report.

        Raises:
            Superseded: another report came first.
        """
        # What was sent and not answered may be in the log: it is sent again as it was.
        event = self._unanswered or self._next_report()
        self._unanswered = event
        try:
            await self._replica.commit(event)
        except CurriculumError as error:
            raise Superseded from error
        self._unanswered = None
        self._number += 1
        self._reported = time.monotonic()

    def _next_report(self) -> log_pb2.Event:
        scored = log_pb2.ShadowsScored(
            epoch=self._epoch, since_revision=self._since, number=self._number, revision=self._count_after
        )
        if self._counting:
            assert self._comparison is not None
            now = self._sums()
            for one in self._comparison.followed:
                scored.strategies.append(self._added(one, *now[one.figures.name]))
            batches = self._comparison.batches, self._comparison.compared_batches
            scored.batches, scored.compared_batches = (
                a - b for a, b in zip(batches, self._told_batches, strict=True)
            )
            scored.revision = self._position
            self._told, self._told_batches = now, batches
        request_id = f"shadows/{self._epoch}/{self._since}/{self._number}"
        return log_pb2.Event(request_id=request_id, fingerprint=self._token, shadows_scored=scored)

    def _added(self, one: FollowedStrategy, sums: dict[str, float], bins: np.ndarray) -> log_pb2.ShadowSums:
        told, told_bins = self._told.get(one.figures.name, ({}, np.zeros_like(bins)))
        added = {name: value - told.get(name, 0.0) for name, value in sums.items()}
        return log_pb2.ShadowSums(
            name=one.figures.name,
            estimator=one.figures.estimator,
            sums={name: value for name, value in added.items() if value},
            bins=(bins - told_bins).ravel().tolist(),
            spearman=one.figures.scores.spearman(),
            spearman_groups=one.figures.scores.window_groups,
        )
