"""What nobody asks for: leases expire, prompts are clustered, snapshots are taken, memory is freed."""

from __future__ import annotations

import asyncio
import time
import uuid

import structlog

from curriculum.v1 import log_pb2
from sampler_service.curriculum import clustering
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import LogError
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.loaded_curricula import LoadedCurricula
from sampler_service.replica.settings import ReplicaSettings
from sampler_service.replica.snapshotting import take_snapshot

__all__ = ["Housekeeping", "cluster_prompts", "expire_leases"]

_log = structlog.get_logger(__name__)

# How long the last snapshots may take when the process stops.
_SNAPSHOT_GRACE_SECONDS = 60


class Housekeeping:
    """Goes round all loaded curricula every `tick_seconds`."""

    def __init__(self, curricula: LoadedCurricula, settings: ReplicaSettings) -> None:
        self._curricula = curricula
        self._settings = settings
        self._rounds: asyncio.Task[None] | None = None
        self._snapshots: dict[str, asyncio.Task[bool]] = {}

    def start(self) -> None:
        """Begins, in the background."""
        self._rounds = asyncio.create_task(self._go_round(), name="housekeeping")

    async def stop(self) -> None:
        """Ends, and waits for the snapshots that are being taken."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
        if self._snapshots:
            await asyncio.wait(list(self._snapshots.values()), timeout=_SNAPSHOT_GRACE_SECONDS)

    async def _go_round(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_seconds)
            for replica in self._curricula:
                try:
                    if replica.gone:
                        self._curricula.drop(replica)
                        continue
                    await expire_leases(replica)
                    await cluster_prompts(replica)
                    self._snapshot_if_due(replica)
                    if replica.outline_is_due:
                        await replica.keep_outline()
                except (LogError, CurriculumError) as error:
                    _log.debug("housekeeping waits", curriculum_id=replica.curriculum_id, why=str(error))
                except Exception:
                    _log.exception("housekeeping failed", curriculum_id=replica.curriculum_id)
            try:
                await self._curricula.tidy()
            except Exception:
                _log.exception("freeing memory failed")

    def _snapshot_if_due(self, replica: CurriculumReplica) -> None:
        running = self._snapshots.get(replica.curriculum_id)
        if running is not None:
            if not running.done():
                return
            del self._snapshots[replica.curriculum_id]
            if not running.cancelled() and (error := running.exception()) is not None:
                _log.warning("snapshot failed", curriculum_id=replica.curriculum_id, why=str(error))
        if replica.wants_snapshot:
            self._snapshots[replica.curriculum_id] = asyncio.create_task(take_snapshot(replica))


async def cluster_prompts(replica: CurriculumReplica) -> None:
    """Writes the events that label prompts by k-means, if any wait for it. Computed in a thread."""
    state = replica.state
    if not clustering.is_due(state):
        return
    name = clustering.clustering_id(state)
    events = await asyncio.to_thread(lambda: list(clustering.clustering_events(state)))
    for number, event in enumerate(events):
        if replica.state is not state:
            return  # Restored meanwhile: the rows may be others.
        # Several replicas may do this at once: under one id the first counts, and they agree on the rest.
        await replica.commit(
            log_pb2.Event(request_id=f"{name}/{number}", fingerprint=b"k-means", clusters_assigned=event)
        )


async def expire_leases(replica: CurriculumReplica) -> None:
    """Writes the event that ends the leases whose time is over, if there are any."""
    due = replica.state.leases.expired(int(time.time() * 1000))
    if due:
        await replica.commit(
            log_pb2.Event(
                request_id=f"expire/{uuid.uuid4().hex}",
                leases_expired=log_pb2.LeasesExpired(lease_ids=due),
            )
        )
