"""Gradient norms measured by several processes, each a share."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from trainer_client.distributed.shared import ShardedNorms
from trainer_client.learner.samples import Sample

pytestmark = pytest.mark.torch


class TwoRanks:
    """Both ranks' work, one after the other, as `gather` would bring it together."""

    size = 2

    def __init__(self, rank: int, other: Any = None) -> None:
        self.rank = rank
        self.other = other

    def gather(self, outcome: Any) -> list[Any]:
        return [outcome, self.other] if self.rank == 0 else [self.other, outcome]


class ByFirstToken:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def measure(self, samples: Sequence[Sample]) -> list[float]:
        self.asked.append(len(samples))
        return [float(sample.completion_token_ids[0]) for sample in samples]


def test_every_rank_measures_a_share_and_all_come_back_in_order() -> None:
    samples = [Sample("p", (1, 2), (place, 3), (-1.0, -1.0), 0.0) for place in range(7)]
    outcomes = []
    for rank in (0, 1):
        caught: list[Any] = []
        world = TwoRanks(rank)
        world.gather = lambda outcome, caught=caught: caught.append(outcome) or [outcome, outcome]  # type: ignore
        norms = ByFirstToken()
        # The stand-in gives this rank's own share twice; only what it measured is wanted.
        with contextlib.suppress(ValueError, KeyError):
            ShardedNorms(world, norms).measure(samples)  # type: ignore[arg-type]
        assert 3 <= norms.asked[0] <= 4
        outcomes.append(caught[0])
    whole = ShardedNorms(TwoRanks(0, outcomes[1]), ByFirstToken()).measure(samples)  # type: ignore[arg-type]
    assert whole == [0, 1, 2, 3, 4, 5, 6]
