"""A prioritized table of dm-reverb. It needs TensorFlow, so it runs in an environment of its own.

This file is both sides: imported, it is the peer; run by the other environment's Python, it is the table,
which takes `fill N`, `draw B` and `report` as lines and answers with the milliseconds each took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

__all__ = ["ReverbTable"]


class ReverbTable:
    """Draws with replacement, as its tables do; the posterior is the caller's business, a report sets priorities.

    Args:
        python: of an environment with `dm-reverb` and `tensorflow-cpu~=2.15.0`.
    """

    name = "dm-reverb prioritized table"
    law = "with replacement"

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _ask(self, line: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        for answer in self._process.stdout:
            if answer.startswith("ms "):
                return float(answer[3:])
        raise RuntimeError("the table's process ended")

    def fill(self, prompts: int) -> None:
        self._ask(f"fill {prompts}")

    def draw(self, count: int) -> float:
        """Milliseconds, measured over there: the pipe between us is not part of it."""
        return self._ask(f"draw {count}")

    def report(self, drawn: Any, successes: Any, group: int) -> float:
        """Milliseconds likewise."""
        return self._ask("report")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _table_side() -> None:
    import random

    import reverb  # type: ignore[import-not-found, unused-ignore]

    client: Any = None
    server: Any = None
    drawn: list[int] = []
    for line in sys.stdin:
        command, *number = line.split()
        started = time.perf_counter()
        if command == "fill":
            prompts = int(number[0])
            table = reverb.Table(
                "prompts",
                sampler=reverb.selectors.Prioritized(1.0),
                remover=reverb.selectors.Fifo(),
                max_size=prompts,
                rate_limiter=reverb.rate_limiters.MinSize(1),
            )
            server = reverb.Server(tables=[table], port=None)
            client = reverb.Client(f"localhost:{server.port}")
            with client.trajectory_writer(num_keep_alive_refs=1) as writer:
                for row in range(prompts):
                    writer.append({"row": row})
                    writer.create_item("prompts", 0.5, {"row": writer.history["row"][-1:]})
                    if row % 4096 == 4095:
                        writer.flush()
        elif command == "draw":
            samples = client.sample("prompts", int(number[0]), emit_timesteps=False)
            drawn = [int(sample.info.key) for sample in samples]
        elif command == "report":
            client.mutate_priorities("prompts", updates={key: random.random() / 2 for key in drawn})
        print("ms", 1e3 * (time.perf_counter() - started), flush=True)
    if server is not None:
        server.stop()


if __name__ == "__main__":
    _table_side()
