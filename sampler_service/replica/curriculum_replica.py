"""One curriculum in memory: the fold of its log, what batches are drawn from, copies of its state for snapshots."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

from curriculum.v1.log_pb2 import SnapshotColumn, SnapshotManifest
from sampler_service.curriculum.embeddings import EmbeddingColumn
from sampler_service.log import LogClient
from sampler_service.replica.batch_source import BatchSource
from sampler_service.replica.outlining import outline
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["CurriculumReplica", "StateCopy"]

# How far lists may be behind a curriculum that is being trained on.
_OUTLINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A curriculum's columns at one revision."""

    revision: str
    arrays: dict[str, Any]
    away: list[SnapshotColumn]
    """Embeddings that only an earlier snapshot holds."""
    embeddings: EmbeddingColumn | None
    """Where the others came from."""


class CurriculumReplica(BatchSource):
    """One curriculum's folded log, which batches are drawn from and snapshots are taken of. `open` it first.

    Args:
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(
        self, client: LogClient, curriculum_id: str, settings: ReplicaSettings, seed: int | None
    ) -> None:
        super().__init__(client, curriculum_id, settings, seed)
        self.snapshotting = asyncio.Lock()
        """Held while this replica takes a snapshot: one at a time."""
        self.snapshotter_token = secrets.token_hex(8)
        self._outlined = ""
        self._outlined_at = float("-inf")
        self.used = time.monotonic()
        self.called = False
        """A call has used it, not only a listing."""
        self.beside_bytes = 0
        """Memory of what follows it: its shadow strategies."""

    @property
    def wants_snapshot(self) -> bool:
        """Whether enough has been folded since the last one."""
        return (
            self.events_since_snapshot >= self.settings.snapshot_events
            or self.bytes_since_snapshot >= self.settings.snapshot_bytes
        )

    @property
    def outline_is_due(self) -> bool:
        """Whether lists should hear of what happened since they last did."""
        return self._outlined != self._position and time.monotonic() - self._outlined_at >= _OUTLINE_SECONDS

    async def keep_outline(self) -> None:
        """Keeps what lists say of the curriculum, if it has changed: they load nothing then."""
        if (revision := self._position) != self._outlined:
            await self.log.keep_outline(revision, outline(self.state).SerializeToString())
            self._outlined, self._outlined_at = revision, time.monotonic()

    async def copy_state(self) -> StateCopy:
        """The state at this moment; folding waits meanwhile."""
        async with self.lock:
            embeddings = self.state.table.embeddings
            away = [] if embeddings is None else list(embeddings.away)
            return StateCopy(self._position, await asyncio.to_thread(self.state.export), away, embeddings)

    async def release_embeddings(self, copied: StateCopy, kept: SnapshotManifest) -> None:
        """Lets go of embeddings that the strategy does not read, now that a snapshot holds them."""
        async with self.lock:
            embeddings = self.state.table.embeddings
            # After a restore they may be others than those that were copied.
            unchanged = embeddings is copied.embeddings and not self.state.strategy.uses_embeddings
            if embeddings is not None and unchanged:
                embeddings.release(kept.columns)
