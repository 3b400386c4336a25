"""What the ranks of a run find out about one that has ended."""

from __future__ import annotations

import pytest
from torch.distributed import HashStore

from trainer_client.distributed.rank_ends import RankEnds

pytestmark = pytest.mark.torch


def ranks(size: int, dead: set[int]) -> list[RankEnds]:
    """Ranks that show that they live whenever another one looks, but for the dead."""
    store = HashStore()
    made: list[RankEnds] = []

    def meanwhile(seconds: float) -> None:
        for rank, one in enumerate(made):
            if rank not in dead:
                one.beat()

    made.extend(RankEnds(store, rank, size, sleep=meanwhile) for rank in range(size))
    for one in made:
        one.beat()
    return made


def test_a_rank_that_failed_is_named_with_what_it_said() -> None:
    several = ranks(3, dead={1})
    several[1].tell("OSError: No space left on device")
    assert several[0].why() == "rank 1 failed: OSError: No space left on device"
    assert several[2].why() == "rank 1 failed: OSError: No space left on device"


def test_ranks_that_merely_wait_are_not_taken_for_those_that_were_killed() -> None:
    several = ranks(8, dead={1, 5})
    assert several[2].why().startswith("rank 1 and rank 5 ended without a word: killed")


def test_a_connection_may_be_lost_though_all_live() -> None:
    assert "all of them are still there" in ranks(4, dead=set())[3].why()


def test_without_the_store_it_is_rank_0_that_ended() -> None:
    class Gone:
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("connection reset")

        def set(self, key: str, value: str) -> None:
            raise RuntimeError("connection reset")

    ends = RankEnds(Gone(), 1, 2)
    ends.tell("of no use")
    assert ends.why().startswith("rank 0 ended without a word")
