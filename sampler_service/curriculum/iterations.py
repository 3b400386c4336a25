"""Iterations over disjoint subsets of the pool, each begun by a cold start (CurES, arXiv 2510.01037).

Which subset a prompt is in depends on its id alone, so prompts that are added later move nobody. All state is
folded: `CurriculumState.iteration_memory` and the prompts that are due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.hashing import hashed_parts
from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.sources import COLD_START

if TYPE_CHECKING:
    from sampler_service.curriculum.state import CurriculumState

__all__ = ["Iterations", "active", "batch_granted", "begin", "is_over", "prompts_added", "rolled_out"]

# A subset should outlast the batches that are in flight at once.
_BATCHES_PER_SUBSET: Final = 2
_COLD: Final = -1
# Prompts looked at together when all are.
_BLOCK: Final = 16_384


class Iterations(Part):
    """The pool is cut into `subsets`; each is trained on for `steps` policy steps, one after the other, again
    and again.

    An iteration starts with a cold start: every prompt of its subset is served with `cold_start_rollouts`
    rollouts, in ordinary batches whose source says so. After that, draws and quotas follow the refreshed
    posterior, within the subset. A batch larger than what its subset has free is filled up from the rest
    of the pool.
    """

    uses_id_hashes: ClassVar[bool] = True

    subsets: int = Field(default=15, ge=1, le=4096)
    """T: disjoint subsets of the pool."""
    steps: int = Field(default=10, ge=1, le=1_000_000)
    """M: policy steps of an iteration, counted from the end of its cold start."""
    cold_start_rollouts: int = Field(default=4, ge=0, le=4096)
    """N': rollouts of every prompt at the start of its iteration; 0 for no cold start."""
    least_prompts: int = Field(default=64, ge=1)
    """A subset smaller than this, or than two batches, is joined with the next one (ours)."""
    reset_estimates: bool = True
    """Every prompt is back at the prior when an iteration starts."""


def subsets_of(state: CurriculumState, rows: NDArray[Any] | slice, count: int) -> NDArray[np.int64]:
    """Subset of each of `rows`, 0 to count − 1."""
    return hashed_parts(state.table.id_hashes()[rows], count)


def active(state: CurriculumState, rows: NDArray[Any] | slice) -> NDArray[np.bool_] | None:
    """Whether each of `rows` belongs to the present iteration; None when the whole pool does."""
    iterations, window = state.strategy.iterations, state.iteration_memory.get("window")
    if iterations is None or window is None or window[1] >= iterations.subsets:
        return None
    subsets = subsets_of(state, rows, iterations.subsets)
    inside: NDArray[np.bool_] = (subsets >= window[0]) & (subsets < window[0] + window[1])
    return inside


def begin(state: CurriculumState, *, onward: bool) -> None:
    """Starts an iteration on the next subset, or the present one over again. O(N)."""
    iterations, memory = state.strategy.iterations, state.iteration_memory
    assert iterations is not None
    first, width = memory["window"].tolist() if "window" in memory else (0, 0)
    if onward:
        first = (first + width) % iterations.subsets
    size = state.table.size
    blocks = [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
    counts = np.zeros(iterations.subsets, dtype=np.int64)
    for rows in blocks:
        counts += np.bincount(subsets_of(state, rows, iterations.subsets), minlength=iterations.subsets)
    sizes = counts[first:]
    largest = int(memory["largest_batch"][0]) if "largest_batch" in memory else 0
    least = max(iterations.least_prompts, _BATCHES_PER_SUBSET * largest)
    width = min(int(np.searchsorted(np.cumsum(sizes), least)) + 1, len(sizes))
    if sizes[width:].sum() < least:
        width = len(sizes)  # What would be left over is too small for an iteration of its own.
    memory["window"] = np.array([first, width], dtype=np.int64)
    memory["begun"] = np.array([state.leases.next_key, state.table.size], dtype=np.int64)
    state.due.remove_source(COLD_START)
    if iterations.cold_start_rollouts:
        for rows in reversed(blocks):  # The last first: then there is room for all of them at once.
            subsets = subsets_of(state, rows, iterations.subsets)
            inside = (subsets >= first) & (subsets < first + width)
            state.due.add(rows.start + np.flatnonzero(inside), COLD_START)
    cold = state.due.count(COLD_START) > 0
    memory["start_step"] = np.array([_COLD if cold else state.policy_step], dtype=np.int64)


def prompts_added(state: CurriculumState, rows: NDArray[Any]) -> None:
    """Prompts join the subset of their id, and its cold start if that is under way."""
    iterations, memory = state.strategy.iterations, state.iteration_memory
    if iterations is None:
        return
    if "window" not in memory or _outgrown(state):
        begin(state, onward=False)
    elif memory["start_step"][0] == _COLD:
        inside = active(state, rows)
        state.due.add(rows if inside is None else rows[inside], COLD_START)


def _outgrown(state: CurriculumState) -> bool:
    """Whether nobody has drawn from the iteration yet, so that its size is not settled, and the pool has grown
    by an eighth since it began. (At every chunk of many, beginning anew would be O(N²) in all.)"""
    begun = state.iteration_memory["begun"].tolist()
    size_then = begun[1] if len(begun) > 1 else 0
    return bool(begun[0] == state.leases.next_key and 8 * state.table.size >= 9 * size_then)


def batch_granted(state: CurriculumState, prompts: int) -> None:
    """Remembers the size of the largest batch: subsets should hold two of them."""
    if state.strategy.iterations is None:
        return
    known = state.iteration_memory.get("largest_batch")
    if known is None or prompts > known[0]:
        state.iteration_memory["largest_batch"] = np.array([prompts], dtype=np.int64)


def rolled_out(state: CurriculumState, rows: NDArray[Any]) -> None:
    """Groups of `rows` have come back: they are not due any more."""
    if state.due.remove(rows):
        start = state.iteration_memory.get("start_step")
        if start is not None and start[0] == _COLD and state.due.count(COLD_START) == 0:
            # The advance to come is that of the cold start's last batch.
            state.iteration_memory["start_step"] = np.array([state.policy_step + 1], dtype=np.int64)


def is_over(state: CurriculumState) -> bool:
    """Whether the iteration has had its steps."""
    iterations, start = state.strategy.iterations, state.iteration_memory.get("start_step")
    if iterations is None or start is None or start[0] == _COLD:
        return False
    return bool(state.policy_step - start[0] >= iterations.steps)
