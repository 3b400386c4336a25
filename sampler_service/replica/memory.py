"""How much memory a curriculum takes, estimated from its columns."""

from __future__ import annotations

from typing import Final

from sampler_service.curriculum.state import CurriculumState

__all__ = ["estimated_bytes"]

# Objects of a curriculum without prompts: state, planner, parts of the strategy, connections to the log.
_EMPTY_BYTES: Final = 16 * 1024
# The draw's weights and the exploration queue, on top of the table's own columns.
_DERIVED_BYTES_PER_PROMPT: Final = 16
# Per slot of a live or remembered lease: rows, quotas, counts, outcomes, ids.
_BYTES_PER_SLOT: Final = 96
# Per remembered request: the id, its fingerprint, its outcome as an object.
_BYTES_PER_REQUEST: Final = 400
# Per point of the history: its sums and its histogram, lists of numbers.
_BYTES_PER_POINT: Final = 1024


def estimated_bytes(state: CurriculumState) -> int:
    """Resident memory of one curriculum, to about a third. O(live leases)."""
    memories = (state.memory, state.proposal_memory, state.cluster_memory)
    return (
        _EMPTY_BYTES
        + state.table.nbytes
        + state.table.size * _DERIVED_BYTES_PER_PROMPT
        + sum(array.nbytes for memory in memories for array in memory.values())
        + state.movement.nbytes
        + state.requests.nbytes
        + len(state.requests) * _BYTES_PER_REQUEST
        + sum(len(lease.rows) for lease in state.leases.live.values()) * _BYTES_PER_SLOT
        + state.history.points * _BYTES_PER_POINT
    )
