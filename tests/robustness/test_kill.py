"""kill -9 in the middle of a run: what was acknowledged is there, once; the run goes on."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from tests.rpc_calls import new_id, report
from tests.service_process import ServiceProcess

PROMPTS = [f"p{i}" for i in range(50)]
LEAST_ACKNOWLEDGED = 100
"""Fewer before the kill, and the run has shown nothing."""


class Trainer(threading.Thread):
    """Reports one prompt after the other and remembers what the service acknowledged."""

    def __init__(self, target: str, seed: int) -> None:
        super().__init__()
        self.acknowledged: list[pb.ReportRolloutsRequest] = []
        self.unanswered: pb.ReportRolloutsRequest | None = None
        self.ended_with: grpc.StatusCode | None = None
        self._target = target
        self._chance = random.Random(seed)

    def run(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = CurriculumServiceStub(channel)
            while True:
                rewards = [float(self._chance.random() < 0.5) for _ in range(4)]
                request = report([self._chance.choice(PROMPTS)], [rewards])
                try:
                    stub.ReportRollouts(request, timeout=120)
                except grpc.RpcError as error:
                    self.unanswered = request
                    self.ended_with = error.code() if isinstance(error, grpc.Call) else None
                    return
                self.acknowledged.append(request)


def posterior(stub: CurriculumServiceStub) -> dict[str, tuple[int, int]]:
    """Counted rollouts and successes of each prompt: the prior is Beta(1, 1) and nothing decays."""
    where = pb.PromptFilter(prompt_ids=PROMPTS)
    answer = stub.ListPromptStates(
        pb.ListPromptStatesRequest(curriculum_id="math", filter=where, page_size=1000)
    )
    return {
        id_: (round(alpha + beta - 2), round(alpha - 1))
        for id_, alpha, beta in zip(answer.prompt_ids, answer.alphas, answer.betas, strict=True)
    }


def counted(reports: list[pb.ReportRolloutsRequest]) -> dict[str, tuple[int, int]]:
    rollouts, successes = Counter(dict.fromkeys(PROMPTS, 0)), Counter(dict.fromkeys(PROMPTS, 0))
    for one in reports:
        rollouts[one.prompt_ids[0]] += len(one.rewards)
        successes[one.prompt_ids[0]] += round(sum(one.rewards))
    return {id_: (rollouts[id_], successes[id_]) for id_ in PROMPTS}


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_after_kill_9_the_posterior_is_what_was_acknowledged(appendfsync: str, tmp_path: Path) -> None:
    arguments = (
        *("--data-dir", str(tmp_path / "data"), "--appendfsync", appendfsync),
        *("--grpc-port", "0", "--http-port", "-1"),
    )
    # Often enough that kills fall into snapshots too.
    environment = {"SAMPLER_REPLICA__SNAPSHOT_EVENTS": "40", "SAMPLER_REPLICA__TICK_SECONDS": "0.05"}
    acknowledged: list[pb.ReportRolloutsRequest] = []
    for round_ in range(3):
        service = ServiceProcess(*arguments, log=tmp_path / "log", environment=environment).wait_until_ready()
        try:
            with grpc.insecure_channel(service.target) as channel:
                stub = CurriculumServiceStub(channel)
                if round_ == 0:
                    strategy = pb.Strategy(preset="uniform-grpo")
                    stub.CreateCurriculum(
                        pb.CreateCurriculumRequest(
                            request_id=new_id(), curriculum_id="math", strategy=strategy
                        )
                    )
                    chunk = pb.AddPromptsRequest(
                        curriculum_id="math", request_id=new_id(), prompt_ids=PROMPTS
                    )
                    stub.AddPrompts(iter([chunk]))
                assert posterior(stub) == counted(acknowledged)
            trainers = [Trainer(service.target, seed=10 * round_ + i) for i in range(4)]
            for trainer in trainers:
                trainer.start()
            deadline = time.monotonic() + 120
            while sum(len(t.acknowledged) for t in trainers) < LEAST_ACKNOWLEDGED + 37 * round_:
                assert time.monotonic() < deadline, "too few reports were acknowledged to show anything"
                time.sleep(0.005)
        finally:
            service.kill()
        for trainer in trainers:
            trainer.join(120)
            assert trainer.ended_with is grpc.StatusCode.UNAVAILABLE
        acknowledged += itertools.chain.from_iterable(trainer.acknowledged for trainer in trainers)

        # What got no answer may have been written or not; sent again it counts once either way.
        service = ServiceProcess(*arguments, log=tmp_path / "log", environment=environment).wait_until_ready()
        try:
            with grpc.insecure_channel(service.target) as channel:
                stub = CurriculumServiceStub(channel)
                for trainer in trainers:
                    assert trainer.unanswered is not None
                    stub.ReportRollouts(trainer.unanswered)
                    assert stub.ReportRollouts(trainer.unanswered).duplicate
                    acknowledged.append(trainer.unanswered)
                assert stub.ReportRollouts(acknowledged[0]).duplicate
                assert posterior(stub) == counted(acknowledged)
        finally:
            assert service.stop() == 0
