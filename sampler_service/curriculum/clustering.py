"""k-means labels: computed outside the fold, entered into it as events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.cluster_sources import KMeansLabels
from sampler_service.curriculum.errors import Aborted, InvalidArgument
from sampler_service.curriculum.predictors.kmeans import k_means, nearest_centre
from sampler_service.curriculum.state import CurriculumState

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine

__all__ = ["apply", "check", "clustering_events", "clustering_id", "is_due"]

_FIT_ROWS: Final = 8192
_EVENT_ROWS: Final = 262_144
_NO_CLUSTER: Final = 2**16 - 1


# -- outside the fold ----------------------------------------------------------------


def is_due(state: CurriculumState) -> bool:
    """Whether there are prompts with an embedding that k-means has not looked at yet. O(1)."""
    return (
        isinstance(state.strategy.cluster_source, KMeansLabels)
        and state.table.embeddings is not None
        and _labelled(state) < state.table.size
    )


def clustering_id(state: CurriculumState) -> str:
    """Names the work that is due, so that of several replicas' results one counts."""
    return f"k-means/{state.epoch}/{state.etag}/{_labelled(state)}"


def clustering_events(state: CurriculumState) -> Iterator[log_pb2.ClustersAssigned]:
    """Labels for what is due. O(prompts · k · dimensions) when fitted anew; reads only, for a thread."""
    source, table = state.strategy.cluster_source, state.table
    assert isinstance(source, KMeansLabels)
    embeddings, size = table.embeddings, table.size
    if embeddings is None:
        return
    memory = state.clustering_memory
    centres, fitted, first = memory.get("centres"), 0, _labelled(state)
    if centres is not None:
        fitted = int(memory["fitted"][0])
        centres = centres.astype(np.float64)
    anew = centres is None or size > fitted * (1.0 + source.regroup_growth)
    if anew:
        first = 0
        sample = embeddings[np.linspace(0, size - 1, min(size, _FIT_ROWS)).astype(np.int64)]
        sample = sample[sample.any(axis=1)]
        if len(sample) == 0:
            return
        # From the old centres, so that a cluster stays the cluster it was.
        centres, _ = k_means(sample, source.k, np.random.default_rng(0), start=centres)
    assert centres is not None
    for start in range(first, size, _EVENT_ROWS):
        part = embeddings[start : min(start + _EVENT_ROWS, size)]
        labels = nearest_centre(part, centres).astype(np.int64)
        labels[~part.any(axis=1)] = _NO_CLUSTER
        event = log_pb2.ClustersAssigned(
            first_row=start, clusters=to_bytes(labels, "u2"), epoch=state.epoch, k=len(centres)
        )
        if anew and start == 0:
            event.centres = to_bytes(centres, "f4")
            event.fitted_prompts = size
        yield event


def _labelled(state: CurriculumState) -> int:
    rows = state.clustering_memory.get("labelled")
    return 0 if rows is None else int(rows[0])


# -- in the fold -----------------------------------------------------------------------


def check(state: CurriculumState, event: log_pb2.ClustersAssigned) -> None:
    """Refuses labels that were made for another state.

    Raises:
        Aborted: rows mean something else since a restore, or labels come from elsewhere now.
        InvalidArgument: the columns do not fit the table.
    """
    if event.epoch != state.epoch or not isinstance(state.strategy.cluster_source, KMeansLabels):
        raise Aborted("EPOCH_CHANGED", "The curriculum has changed while prompts were clustered.")
    rows = len(event.clusters) // 2
    dim = state.table.embedding_dim
    if (
        event.first_row < 0
        or event.first_row + rows > state.table.size
        or not 0 < event.k < _NO_CLUSTER
        or len(event.centres) not in (0, 4 * event.k * dim)
    ):
        raise InvalidArgument("INVALID_CLUSTERS", "The labels do not fit the prompts.")


def apply(machine: CurriculumMachine, event: log_pb2.ClustersAssigned) -> log_pb2.Outcome:
    """Labels prompts that came without a label of their own. O(rows)."""
    state, table, memory = machine.state, machine.state.table, machine.state.clustering_memory
    if event.centres:
        memory["centres"] = np.array(from_bytes(event.centres, "f4").reshape(event.k, -1))
        memory["fitted"] = np.array([event.fitted_prompts], dtype=np.int64)
    names = _named(state, event.k)
    labels = from_bytes(event.clusters, "u2").astype(np.int64)
    rows = np.arange(event.first_row, event.first_row + len(labels))
    old = table.clusters[rows]
    ours = (old < 0) | np.isin(old, names)
    new = np.append(names, -1)[np.minimum(labels, len(names))]
    rows, old, new = rows[ours], old[ours], new[ours]
    table.clusters[rows] = new
    prompts = state.cluster_sums[0]
    prompts -= np.bincount(old[old >= 0], minlength=len(prompts))
    prompts += np.bincount(new[new >= 0], minlength=len(prompts))
    memory["labelled"] = np.array([event.first_row + len(labels)], dtype=np.int64)
    machine.all_changed = True
    return log_pb2.Outcome()


def _named(state: CurriculumState, k: int) -> NDArray[Any]:
    """Indices of the clusters k-means-00, k-means-01, ..., made on first use."""
    width = len(str(k - 1))
    known = {name: i for i, name in enumerate(state.cluster_names)}
    indices = []
    for number in range(k):
        name = f"k-means-{number:0{width}d}"
        if name not in known:
            known[name] = len(state.cluster_names)
            state.cluster_names.append(name)
        indices.append(known[name])
    missing = len(state.cluster_names) - state.cluster_sums.shape[1]
    state.cluster_sums = np.pad(state.cluster_sums, ((0, 0), (0, missing)))
    return np.array(indices, dtype=np.int32)
