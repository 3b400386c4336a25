"""Taking snapshots and keeping checkpoints: one process at a time per curriculum, by a fenced lock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import Aborted, NotFound
from sampler_service.log import LogLostError, LogUnavailableError, SnapshotterLostError, revision_millis
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.restoring import bytes_of

__all__ = ["create_checkpoint", "hold_back", "take_snapshot"]

_log = structlog.get_logger(__name__)

_HOLD_BACK_SECONDS = 60.0


@asynccontextmanager
async def _snapshotter(replica: CurriculumReplica, wait_seconds: float) -> AsyncIterator[bool]:
    """Holds the snapshotter's lock, renewed while it is held; yields whether we got it."""
    ttl = replica.settings.snapshot_lock_seconds
    deadline = time.monotonic() + wait_seconds
    # The token is the replica's own, so that a release whose reply was lost keeps nobody waiting but others.
    async with replica.snapshotting:
        while not (held := await replica.store.lock.acquire(replica.snapshotter_token, ttl)) and (
            time.monotonic() < deadline
        ):
            await asyncio.sleep(0.1)
        if not held:
            yield False
            return

        async def renew() -> None:
            while True:
                await asyncio.sleep(ttl / 3)
                await replica.store.lock.renew(ttl)

        renewer = asyncio.create_task(renew())
        try:
            yield True
        finally:
            renewer.cancel()
            with contextlib.suppress(LogUnavailableError):
                await replica.store.lock.release()


async def take_snapshot(replica: CurriculumReplica) -> bool:
    """Keeps the present state, trims the log behind the snapshot before it, and drops what nobody needs.

    Returns:
        False when another process is at it, or the curriculum was deleted.
    """
    async with _snapshotter(replica, 0.0) as held:
        if not held:
            return False
        # A replica that is behind knows neither of new checkpoints, whose snapshots it must keep, nor of loss.
        try:
            await replica.catch_up()
        except NotFound:
            return False
        before = await replica.store.head()
        copied = await replica.copy_state()
        revision = copied.revision
        replica.events_since_snapshot = replica.bytes_since_snapshot = 0
        try:
            manifest = await replica.store.save(revision, copied.arrays, copied.away)
            await replica.release_embeddings(copied, manifest)
            replica.snapshot_millis = revision_millis(revision)
            replica.snapshot_bytes = bytes_of(manifest)
            # The log is kept back to the snapshot before this one: a replica a little behind needs no reload.
            if before is not None and before != revision:
                await replica.store.trim(before)
            kept = {str(checkpoint["revision"]) for checkpoint in replica.state.checkpoints.values()}
            await replica.store.collect_garbage(kept | {revision} | ({before} if before else set()))
        except SnapshotterLostError:
            _log.info("another replica took over the snapshots", curriculum_id=replica.curriculum_id)
            return False
    return True


async def hold_back(replica: CurriculumReplica) -> None:
    """Waits until snapshots have caught up with what is being written, so that memory stays bounded.

    Prompts may come in faster than they are snapshotted; until then events and embeddings are held in memory
    and in the log. Waits a minute at most: without a snapshot the service goes on, and holds more.
    """
    deadline = time.monotonic() + _HOLD_BACK_SECONDS
    while (
        replica.bytes_since_snapshot > 2 * replica.settings.snapshot_bytes
        and time.monotonic() < deadline
        and not await take_snapshot(replica)
    ):
        await asyncio.sleep(0.1)


async def create_checkpoint(replica: CurriculumReplica, event: log_pb2.Event) -> log_pb2.Outcome:
    """Saves the state, then writes the event that names it: a crash in between leaves no broken checkpoint.

    Raises:
        Aborted: another process keeps the snapshotter's lock, or took it over; or the log has lost entries.
    """
    busy = Aborted(
        "SNAPSHOT_UNDER_WAY",
        "Another process is taking a snapshot of this curriculum; try again.",
        retry_after_seconds=2.0,
    )
    async with _snapshotter(replica, 10.0) as held:
        if not held:
            raise busy
        await replica.catch_up()
        copied = await replica.copy_state()
        try:
            await replica.store.save(copied.revision, copied.arrays, copied.away)
        except SnapshotterLostError as error:
            raise busy from error
        except LogLostError as error:
            raise Aborted("RELOADED", "The log has lost its last writes; send the request again.") from error
        event.checkpoint_created.revision = copied.revision
        return await replica.commit(event)
