"""What other strategies would have predicted, and done, over a recorded log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.comparison import Comparison
from sampler_service.curriculum.shadow import StrategyFigures
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy

__all__ = ["RecordedEvent", "Replay", "replay"]


class RecordedEvent(NamedTuple):
    """An event, where and when the log has it."""

    event: log_pb2.Event
    revision: str
    millis: int


@dataclass(slots=True)
class Replay:
    """A recorded log under several strategies."""

    strategies: list[StrategyFigures]
    """The first is the recorded one."""
    events: int = 0
    batches: int = 0
    compared_batches: int = 0
    groups: float = 0.0
    mixed_groups: float = 0.0
    revision: str = ""


def replay(
    base: CurriculumState,
    events: Sequence[RecordedEvent],
    strategies: Mapping[str, Strategy],
    *,
    most_compared: int = 64,
    seed: int = 0,
) -> Replay:
    """Folds `events`, which follow `base`, once as recorded and once under every other strategy.

    Every estimator predicts the recorded batches before their outcomes and is scored on them. For at most
    `most_compared` batches, evenly spread, each strategy also draws and shares out a batch of its own.
    O(strategies · (fold + compared batches · draw)).
    """
    before = dict(base.history.totals)
    comparison = Comparison(base, strategies, "recorded", np.random.default_rng(seed))
    grants = sum(one.event.WhichOneof("event") == "batch_granted" for one in events)
    every = max(1, -(-grants // most_compared))
    for event, revision, millis in events:
        comparison.fold(event, revision, millis, compare=comparison.batches % every == 0)
    totals = base.history.totals
    return Replay(
        [one.collect() for one in comparison.followed],
        events=len(events),
        batches=comparison.batches,
        compared_batches=comparison.compared_batches,
        groups=totals["groups"] - before["groups"],
        mixed_groups=totals["mixed_groups"] - before["mixed_groups"],
        revision=events[-1].revision if events else "",
    )
