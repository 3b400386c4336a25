"""How the ranks of a run ended, kept where all of them can read it when they no longer hear each other.

That is the store by which torchrun brought them together. It lies with torchrun itself, which outlives every
rank, or with rank 0.
"""

import time
from typing import Any

# How long a rank that has lost another looks who is still there: they all notice at about the same time.
LOOK_SECONDS = 5.0
POLL_SECONDS = 0.05


class RankEnds:
    """One note per rank: what it failed with, or that it has merely lost another.

    store: keys and values that all ranks share.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store = store
        self._rank = rank
        self._size = size

    def tell(self, problem: str) -> None:
        """This rank ends with a problem of its own."""
        self._note("failed", problem)

    def why(self) -> str:
        """Which rank has ended, and with what. Waits a little for the others to be heard of."""
        self._note("lost", "")
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                unheard = [rank for rank in range(self._size) if not self._is_heard_of(rank)]
                failed = [rank for rank in range(self._size) if self._has("failed", rank)]
                if failed:
                    return f"rank {failed[0]} failed: {self._store.get(f'failed/{failed[0]}').decode()}"
            except RuntimeError:
                # The store was rank 0's.
                unheard = [0]
            if not unheard or time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        if not unheard:
            return "the connection between the processes of this run was lost; all of them are still there"
        names = " and ".join(f"rank {rank}" for rank in unheard)
        return (
            f"{names} ended without a word: killed, perhaps for want of memory; see what it printed last, and "
            "the machine's log"
        )

    def _is_heard_of(self, rank: int) -> bool:
        return rank == self._rank or self._has("lost", rank) or self._has("failed", rank)

    def _has(self, what: str, rank: int) -> bool:
        return bool(self._store.check([f"{what}/{rank}"]))

    def _note(self, what: str, text: str) -> None:
        try:
            self._store.set(f"{what}/{self._rank}", text)
        except RuntimeError:
            # The store was rank 0's, which has ended: nobody can be told.
            return
