"""The process that folds a log under other strategies: its parent's payload comes in, the answer goes out."""

from __future__ import annotations

import math
import os
import pickle
import sys
from typing import Any

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.replay import RecordedEvent, Replay, ReplayedStrategy, replay
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.log import revision_millis
from sampler_service.replica.reading import calibration_message

__all__ = ["main"]


def main() -> None:
    """Reads a payload from standard input, writes a `ReplayCurriculumResponse` to standard output."""
    os.nice(10)  # What serves comes first.
    payload: dict[str, Any] = pickle.load(sys.stdin.buffer)
    base = CurriculumState.restore(payload["arrays"], payload["away"])
    events = [
        RecordedEvent(log_pb2.Event.FromString(data), revision, revision_millis(revision))
        for data, revision in payload["events"]
    ]
    strategies = {name: Strategy.from_json(text) for name, text in payload["strategies"].items()}
    done = replay(base, events, strategies, most_compared=payload["most_compared"])
    sys.stdout.buffer.write(_message(done).SerializeToString())


def _message(done: Replay) -> pb.ReplayCurriculumResponse:
    return pb.ReplayCurriculumResponse(
        replays=[_strategy(one) for one in done.strategies],
        events=done.events,
        batches=done.batches,
        compared_batches=done.compared_batches,
        groups=int(done.groups),
        mixed_share=_share(done.mixed_groups, done.groups),
        revision=done.revision,
    )


def _strategy(one: ReplayedStrategy) -> pb.StrategyReplay:
    scores = one.scores
    return pb.StrategyReplay(
        strategy=one.name,
        estimator=one.estimator,
        calibration=calibration_message(
            scores.predictions, scores.brier_sum, scores.log_loss_sum, scores.bins, scores
        ),
        predicted_mixed_share=_share(one.predicted_mixed, one.recorded_prompts),
        expected_mixed_share=_share(one.expected_mixed, one.planned_prompts),
        quota_overlap=_share(one.overlap_rollouts, one.compared_rollouts),
        batch_overlap=_share(one.shared_prompts, one.planned_prompts),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


if __name__ == "__main__":
    main()
