"""How the ranks of a run ended, kept where all of them can read it when they no longer hear each other.

That is the store by which torchrun brought them together. It lies with torchrun itself, which outlives every
rank, or with rank 0.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

# Every rank shows so often that it lives, also while it waits for another.
BEAT_SECONDS = 1.0
# A rank that shows nothing in so many looks has ended: ten seconds.
LOOKS = 100
LOOK_SECONDS = 0.1


class RankEnds:
    """One note per rank that has failed, with what; and from each a sign of life.

    store: keys and values that all ranks share.
    """

    def __init__(
        self, store: Any, rank: int, size: int, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._sleep = sleep
        self._beats = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Shows from now on that this rank lives."""
        self.beat()
        threading.Thread(target=self._beat_on, name="rank-signs", daemon=True).start()

    def end(self) -> None:
        """Shows so no longer."""
        self._ended.set()

    def beat(self) -> None:
        """Shows it once."""
        self._beats += 1
        self._set("beat", str(self._beats))

    def tell(self, problem: str) -> None:
        """This rank ends with a problem of its own."""
        self._set("failed", problem)

    def why(self) -> str:
        """Which rank has ended, and with what. Takes ten seconds for ranks that could not say it."""
        try:
            silent = {rank: self._get("beat", rank) for rank in range(self._size) if rank != self._rank}
            for _ in range(LOOKS):
                for rank in range(self._size):
                    if problem := self._get("failed", rank):
                        return f"rank {rank} failed: {problem}"
                silent = {rank: beat for rank, beat in silent.items() if self._get("beat", rank) == beat}
                if not silent:
                    return "the connection between the processes of this run was lost; all of them are still there"
                self._sleep(LOOK_SECONDS)
        except RuntimeError:
            # The store was rank 0's.
            silent = {0: ""}
        names = " and ".join(f"rank {rank}" for rank in silent)
        return (
            f"{names} ended without a word: killed, perhaps for want of memory; see what it printed last, and "
            "the machine's log"
        )

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.beat()

    def _get(self, what: str, rank: int) -> str:
        key = f"{what}/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _set(self, what: str, text: str) -> None:
        try:
            self._store.set(f"{what}/{self._rank}", text)
        except RuntimeError:
            # The store was rank 0's, which has ended: nobody can be told.
            self._ended.set()
