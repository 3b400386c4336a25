"""Sorted pages of a pool of several blocks, at any depth."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.prompt_listing import prompt_states
from tests.curriculum_runs import Run

PROMPTS = 40_000


@pytest.fixture(scope="module")
def state() -> CurriculumState:
    run, rng = Run(), np.random.default_rng(5)
    run.add(PROMPTS)
    table = run.state.table
    table.column("successes")[:] = rng.integers(0, 9, PROMPTS)
    table.column("failures")[:] = rng.integers(0, 9, PROMPTS)
    table.column("visits")[:] = rng.integers(0, 30, PROMPTS)
    return run.state


@pytest.mark.parametrize("start", [0, 1, 16_380, 39_000, PROMPTS - 10, PROMPTS - 1])
@pytest.mark.parametrize("order", ["pass_rate", "pass_rate desc", "visits", "visits desc"])
def test_a_page_is_that_part_of_the_whole_order(state: CurriculumState, order: str, start: int) -> None:
    name, _, direction = order.partition(" ")
    view = state.view(np.arange(PROMPTS))
    values = np.asarray(view.pass_rates if name == "pass_rate" else view.visits, dtype=np.float32)
    whole = np.argsort(-values if direction else values, kind="stable")
    page = prompt_states(
        state, pb.ListPromptStatesRequest(order_by=order, page_size=100, page_token=str(start))
    )
    assert page.prompt_ids == [f"p{row}" for row in whole[start : start + 100]]
    assert page.next_page_token == ("" if start + 100 >= PROMPTS else str(start + 100))


@pytest.mark.parametrize("start", [PROMPTS, 10 * PROMPTS])
def test_behind_the_last_page_is_nothing(state: CurriculumState, start: int) -> None:
    page = prompt_states(state, pb.ListPromptStatesRequest(order_by="visits", page_token=str(start)))
    assert (len(page.prompt_ids), page.next_page_token) == (0, "")


def test_a_sorted_page_of_a_filter_that_nothing_passes_is_empty(state: CurriculumState) -> None:
    where = pb.PromptFilter(id_contains="none such")
    page = prompt_states(state, pb.ListPromptStatesRequest(order_by="visits", filter=where))
    assert (len(page.prompt_ids), page.next_page_token) == (0, "")
