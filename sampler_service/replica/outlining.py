"""What a list says of a curriculum, from its state."""

from __future__ import annotations

from typing import Final

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.answers import curriculum_message
from sampler_service.replica.reading import figures

__all__ = ["outline"]

_BINS: Final = 10


def outline(state: CurriculumState) -> pb.ListCurriculaResponse:
    """An answer with one entry: settings, counters and the summary's plain figures. O(1) in the prompts."""
    brief = figures(state, _BINS)
    totals = state.history.totals
    scored = totals["predictions"]
    brief.calibration.predictions = int(scored)
    brief.calibration.brier = totals["brier_sum"] / scored if scored else float("nan")
    brief.calibration.log_loss = totals["log_loss_sum"] / scored if scored else float("nan")
    return pb.ListCurriculaResponse(curricula=[curriculum_message(state)], summaries=[brief])
