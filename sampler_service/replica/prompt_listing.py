"""Pages of prompt states: filtered, in the order of rows or of a column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import InvalidArgument, NotFound
from sampler_service.curriculum.state import CurriculumState

__all__ = ["ORDERS", "prompt_states"]

ORDERS: Final = ("pass_rate", "pass_rate_stddev", "visits", "rollouts", "last_policy_version")
"""Columns that `order_by` may name."""

_DEFAULT_PAGE: Final = 100
_MAX_PAGE: Final = 10_000
_SCAN_BLOCK: Final = 16_384


def prompt_states(state: CurriculumState, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
    """One page of prompts that pass the filter, in row order or that of `order_by`.

    By row a page costs what is looked through until it is full; by a column O(N), and pages are cut from the state
    of their own moment.

    Raises:
        InvalidArgument: a page size, token or order that is none, a range that is empty.
        NotFound: a prompt id of the filter is not in the curriculum.
    """
    if request.page_size < 0:
        raise InvalidArgument(
            "INVALID_PAGE_SIZE", f"page_size = {request.page_size} must not be negative.", "page_size"
        )
    size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
    start = 0
    if request.page_token:
        if not (request.page_token.isascii() and request.page_token.isdigit()):
            raise InvalidArgument(
                "INVALID_PAGE_TOKEN",
                f"page_token = {request.page_token!r} is not one that this service gave.",
                "page_token",
            )
        start = int(request.page_token)
    if request.order_by:
        rows, more = _ordered(state, request, start, size)
        following = start + size
    elif request.filter.prompt_ids:
        rows = _rows_of(state, request.filter)[start : start + size + 1]
        more = len(rows) > size
        rows, following = rows[:size], start + size
    else:
        rows, following = _scan(state, request.filter, start, size)
        more = following < state.table.size
    response = _states_of(state, rows)
    if more:
        response.next_page_token = str(following)
    return response


def _rows_of(state: CurriculumState, wanted: pb.PromptFilter) -> NDArray[Any]:
    rows = state.table.find(list(wanted.prompt_ids))
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        i = int(missing[0])
        raise NotFound(
            "PROMPT_NOT_FOUND",
            f"filter.prompt_ids[{i}] = {wanted.prompt_ids[i]!r} is not in the curriculum.",
            f"filter.prompt_ids[{i}]",
        )
    return rows[_passes(state, rows, wanted)]


def _passes(state: CurriculumState, rows: NDArray[Any], wanted: pb.PromptFilter) -> NDArray[np.bool_]:
    passes = np.ones(len(rows), dtype=np.bool_)
    if wanted.HasField("min_pass_rate") or wanted.HasField("max_pass_rate"):
        low = wanted.min_pass_rate if wanted.HasField("min_pass_rate") else 0.0
        high = wanted.max_pass_rate if wanted.HasField("max_pass_rate") else 1.0
        if not 0.0 <= low <= high <= 1.0:
            raise InvalidArgument(
                "INVALID_RANGE",
                f"filter pass rates [{low}, {high}] must be an interval within [0, 1].",
                "filter.min_pass_rate",
            )
        alphas, betas = state.posterior(rows)
        rates = alphas / (alphas + betas)
        passes &= (rates >= low) & (rates <= high)
    if wanted.clusters:
        known = {name: i for i, name in enumerate(state.cluster_names)}
        keys = [known.get(name, -2) for name in wanted.clusters]
        passes &= np.isin(state.table.column("clusters")[rows], keys)
    if wanted.id_contains:
        left = np.flatnonzero(passes)
        passes[left] = state.table.contain(rows[left], wanted.id_contains)
    return passes


def _scan(state: CurriculumState, wanted: pb.PromptFilter, start: int, size: int) -> tuple[NDArray[Any], int]:
    """Rows from `start` on that pass, at most `size`, and where the next page begins."""
    found: list[NDArray[Any]] = []
    missing = size
    total = state.table.size
    block = max(2 * size, 1024)
    while start < total and missing > 0:
        rows = np.arange(start, min(start + block, total))
        hits = rows[_passes(state, rows, wanted)]
        if len(hits) > missing:
            hits = hits[:missing]
            start = int(hits[-1]) + 1
        else:
            start = int(rows[-1]) + 1
        found.append(hits)
        missing -= len(hits)
        block = min(2 * block, _SCAN_BLOCK)
    return (np.concatenate(found) if found else np.zeros(0, dtype=np.int64)), start


def _ordered(
    state: CurriculumState, request: pb.ListPromptStatesRequest, start: int, size: int
) -> tuple[NDArray[Any], bool]:
    """Rows of one page in the order of a column, and whether more follow. Prompts that are equal: by row."""
    name, _, direction = request.order_by.partition(" ")
    if name not in ORDERS or direction not in ("", "asc", "desc"):
        raise InvalidArgument(
            "INVALID_ORDER",
            f"order_by = {request.order_by!r} must be one of {', '.join(ORDERS)}, with or without ' desc'.",
            "order_by",
        )
    blocks = (
        [_rows_of(state, request.filter)]
        if request.filter.prompt_ids
        else list(_passing(state, request.filter))
    )
    if not blocks:
        return np.zeros(0, dtype=np.int64), False
    # Key and row in one integer: the page is then found by partition, and it alone is sorted.
    keys = np.concatenate(
        [
            (_sortable(state, rows, name, descending=direction == "desc").astype(np.uint64) << np.uint64(32))
            | rows.astype(np.uint64)
            for rows in blocks
        ]
    )
    if start >= len(keys):
        return np.zeros(0, dtype=np.int64), False
    end = min(start + size, len(keys))
    keys.partition([start, end - 1])
    page = np.sort(keys[start:end]) & np.uint64(0xFFFFFFFF)
    return page.astype(np.int64), end < len(keys)


def _passing(state: CurriculumState, wanted: pb.PromptFilter) -> Iterator[NDArray[Any]]:
    for start in range(0, state.table.size, _SCAN_BLOCK):
        rows = np.arange(start, min(start + _SCAN_BLOCK, state.table.size))
        yield rows[_passes(state, rows, wanted)]


def _sortable(
    state: CurriculumState, rows: NDArray[Any], name: str, *, descending: bool
) -> NDArray[np.uint32]:
    """Numbers that compare as the column does."""
    if name in ("visits", "rollouts"):
        keys: NDArray[np.uint32] = state.table.column(name)[rows].astype(np.uint32)
    elif name == "last_policy_version":
        keys = (state.table.column("last_policy_versions")[rows].astype(np.int64) + 1).astype(np.uint32)
    else:
        view = state.view(rows)
        values = view.pass_rates if name == "pass_rate" else view.pass_rate_stddevs
        # Numbers that are not negative compare as their bits do.
        keys = np.maximum(values, 0.0).astype(np.float32).view(np.uint32)
    return np.invert(keys) if descending else keys


def _states_of(state: CurriculumState, rows: NDArray[Any]) -> pb.ListPromptStatesResponse:
    view, table = state.view(rows), state.table
    names = [*state.cluster_names, ""]  # −1: none
    return pb.ListPromptStatesResponse(
        prompt_ids=table.ids(rows),
        pass_rates=view.pass_rates.tolist(),
        pass_rate_stddevs=view.pass_rate_stddevs.tolist(),
        alphas=view.alphas.tolist(),
        betas=view.betas.tolist(),
        ema_means=view.ema_means.tolist(),
        ema_variances=view.ema_variances.tolist(),
        visits=view.visits.tolist(),
        rollouts=view.rollouts.tolist(),
        last_policy_versions=table.column("last_policy_versions")[rows].tolist(),
        clusters=[names[i] for i in view.clusters.tolist()],
        in_flight=(table.column("leases")[rows] >= 0).tolist(),
        revision=state.revision,
    )
