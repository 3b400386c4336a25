"""Phases that the fold asks for: batches whose prompts are due, served before any draw."""

from __future__ import annotations

from typing import NamedTuple

from sampler_service.curriculum.sources import COLD_START, REFERENCE
from sampler_service.curriculum.state import CurriculumState

__all__ = ["DuePhase", "due_phase"]


class DuePhase(NamedTuple):
    """Why batches of due prompts are served now."""

    source: int
    rollouts: int
    """For every prompt of such a batch, once."""
    note: str


def due_phase(state: CurriculumState) -> DuePhase | None:
    """The phase under way, if there is one. O(N) while anything is due."""
    iterations = state.strategy.iterations
    if iterations is not None and (left := state.due.count(COLD_START)):
        return DuePhase(
            COLD_START,
            iterations.cold_start_rollouts,
            f"Cold start of iteration {state.iteration}: {left} of its prompts have not been rolled out yet,"
            f" {iterations.cold_start_rollouts} times each.",
        )
    if left := state.due.count(REFERENCE):
        each = state.strategy.estimator.shared_evidence.rollouts_per_reference
        if each:
            return DuePhase(
                REFERENCE,
                each,
                f"Reference set: {left} of its prompts have not been rolled out yet, {each} times each.",
            )
    return None
