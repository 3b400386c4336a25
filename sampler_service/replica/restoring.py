"""Kept states back into memory: all of one but the embeddings, and those when a method asks for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.embeddings import is_away_candidate
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import SnapshotStore

__all__ = ["bring_embeddings", "bytes_of", "load_state"]


async def load_state(
    store: SnapshotStore, revision: str | None = None, *, all_embeddings: bool = False
) -> tuple[log_pb2.SnapshotManifest, CurriculumState]:
    """The state kept at `revision`, the newest if None, and its manifest.

    Embeddings that its strategy does not use stay away.

    Raises:
        SnapshotError: there is none, or it cannot be read.
    """
    manifest, arrays = await store.load(revision, leave=is_away_candidate)
    away = [column for column in manifest.columns if column.name not in arrays]
    state = await asyncio.to_thread(_restore, arrays, away)
    if all_embeddings or state.strategy.uses_embeddings:
        await bring_embeddings(store, state)
    return manifest, state


def _restore(arrays: Mapping[str, Any], away: Sequence[log_pb2.SnapshotColumn]) -> CurriculumState:
    state = CurriculumState.restore(arrays, away)
    if state.strategy.uses_id_hashes:
        state.table.id_hashes()
    return state


def bytes_of(manifest: log_pb2.SnapshotManifest) -> int:
    """Size of a snapshot, blocks that it shares with others included."""
    return sum(math.prod(column.shape) * np.dtype(column.dtype).itemsize for column in manifest.columns)


async def bring_embeddings(store: SnapshotStore, state: CurriculumState) -> None:
    """Loads the embeddings that are away. The state may be folded on meanwhile.

    Raises:
        SnapshotError: the server lost them.
    """
    embeddings = state.table.embeddings
    while embeddings is not None and embeddings.away:
        wanted = list(embeddings.away)
        blocks = await store.fetch(wanted)
        # A snapshot taken in between may have let more of them go.
        if embeddings.away == wanted:
            embeddings.bring(blocks)
