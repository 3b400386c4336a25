"""The process that folds a log under other strategies: its parent's payload comes in, the answer goes out."""

from __future__ import annotations

import math
import os
import pickle
import sys
from typing import Any

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.replay import RecordedEvent, Replay, replay
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.log import revision_millis
from sampler_service.replica.shadow_answers import strategy_message

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
        replays=[
            strategy_message(
                one.name,
                one.estimator,
                one.sums(),
                one.scores.bins,
                one.scores.spearman(),
                one.scores.window_groups,
            )
            for one in done.strategies
        ],
        events=done.events,
        batches=done.batches,
        compared_batches=done.compared_batches,
        groups=int(done.groups),
        mixed_share=done.mixed_groups / done.groups if done.groups else math.nan,
        revision=done.revision,
    )


if __name__ == "__main__":
    main()
