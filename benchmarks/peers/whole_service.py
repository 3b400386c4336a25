"""Ours, whole: leases, log, exactly-once reports, over gRPC from another process."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.service import latency
from benchmarks.service.process import running
from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["WholeService"]


class WholeService:
    """One curriculum of preset `cures` in a service process with its embedded Valkey."""

    name = "this service, over gRPC"
    law = "exact"

    def fill(self, prompts: int) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        server = self._stack.enter_context(running(Path(folder) / "data"))
        latency.add_prompts(server, "peers", "cures", prompts)
        channel, self._stub = server.stub()
        self._stack.callback(channel.close)
        self._calls = 0

    def draw(self, count: int) -> pb.Batch:
        self._calls += 1
        return self._stub.NextBatch(
            pb.NextBatchRequest(
                curriculum_id="peers",
                request_id=f"n{self._calls}",
                batch_size=count,
                rollout_budget=8 * count,
                equal_quotas=True,
            )
        ).batch

    def report(self, drawn: pb.Batch, successes: NDArray[np.int64], group: int) -> None:
        rewards = (np.arange(group) < successes[:, None]).astype(float).ravel().tolist()
        self._stub.ReportRollouts(
            pb.ReportRolloutsRequest(
                curriculum_id="peers",
                request_id=f"r{self._calls}",
                lease_id=drawn.lease_id,
                prompt_ids=drawn.prompt_ids,
                rollout_counts=drawn.quotas,
                rewards=rewards,
            )
        )

    def close(self) -> None:
        self._stack.close()
