"""What clients do to a curriculum, as rules of a Hypothesis state machine."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable
from typing import Any, ClassVar, Final, TypeVar

from google.protobuf import json_format
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import (
    CurriculumError,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from sampler_service.log import LogError, parse_revision
from tests.client_under_faults import Client
from tests.evidence_oracle import Answered
from tests.redis_servers import RedisServer
from tests.replicas_under_faults import CURRICULUM, Replicas

T = TypeVar("T")

PROMPTS: Final = 40
LONG, SHORT = 600.0, 0.1
EXACT: Final[tuple[dict[str, Any], ...]] = (
    {"preset": "uniform-grpo"},
    {"preset": "reinforce-ada-balance", "stopping": {"balanced": {"round": 2, "keep": 2, "max": 6}}},
    {"preset": "learnability", "estimator": {"decay": "none"}},
    {"preset": "pilot-commit"},
    {"preset": "doremi"},
    {"preset": "frontier"},
    {"preset": "uniform-grpo", "shadows": {"mopps": {"preset": "mopps"}}},
)
"""Strategies under which evidence does not age."""
AGEING: Final[tuple[dict[str, Any], ...]] = (
    {"preset": "mopps"},
    {"preset": "knapsack"},
    {"preset": "cures"},
    {"preset": "vade"},
)

replica = st.integers(0, 1)
choice = st.integers(0, 2**16)
gives_up = st.sampled_from([False, False, True])


class ClientRules(RuleBasedStateMachine):
    """One curriculum from its creation on, and two replicas to ask."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.replicas = Replicas(self.server)
        self.client = Client(self.replicas)
        self.rng = random.Random(0)
        self.names = 0
        self.prompts = 0
        self.policy_version = 0
        self.ageless = True
        """No strategy so far lets evidence age."""

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    def name(self, what: str) -> str:
        self.names += 1
        return f"{what}-{self.names}"

    # -- what clients do ---------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.run(self.replicas.start())
        self.run(self.client.create(0, self.creation()))
        self.add_prompts(0, PROMPTS, False)

    def creation(self) -> pb.CreateCurriculumRequest:
        return pb.CreateCurriculumRequest(
            request_id=self.name("create"),
            curriculum_id=CURRICULUM,
            strategy=strategy_of(EXACT[0], LONG),
        )

    @rule(who=replica, sure=st.integers(0, 5))
    def delete_and_create_anew(self, who: int, sure: int) -> None:
        if sure:
            return
        self.run(self.client.settle())
        self.run(self.client.begin_anew(who, self.creation()))
        self.prompts = self.policy_version = 0
        self.ageless = True
        self.add_prompts(who, PROMPTS, False)

    @rule(who=replica, count=st.integers(1, 8), give_up=gives_up)
    def add_prompts(self, who: int, count: int, give_up: bool) -> None:
        ids = [f"p{i}" for i in range(max(self.prompts - 2, 0), self.prompts + count)]
        self.prompts += count
        request = pb.AddPromptsRequest(
            curriculum_id=CURRICULUM,
            request_id=self.name("add"),
            prompt_ids=ids,
            clusters=[f"cluster-{len(id_) % 3}-{id_[-1]}" for id_ in ids],
        )
        self.must_be_done(self.run(self.client.ask(who, request, give_up=give_up)))

    def batch_request(self, size: int, budget: int) -> pb.NextBatchRequest:
        return pb.NextBatchRequest(
            curriculum_id=CURRICULUM,
            request_id=self.name("next"),
            batch_size=size,
            rollout_budget=budget,
            policy_version=max(0, self.policy_version - self.rng.randrange(3)),
        )

    @rule(who=replica, size=st.integers(1, 12), each=st.integers(16, 20), give_up=gives_up)
    def grant(self, who: int, size: int, each: int, give_up: bool) -> None:
        answer = self.run(self.client.ask(who, self.batch_request(size, size * each), give_up=give_up))
        assert not isinstance(answer, CurriculumError) or isinstance(answer, Exhausted), answer

    @rule(size=st.integers(1, 12), same=st.booleans())
    def both_are_asked_for_a_batch_at_once(self, size: int, same: bool) -> None:
        first = self.batch_request(size, size * 16)
        second = first if same else self.batch_request(size, size * 16)
        answers = self.run(self.client.ask_both(first, second))
        batches = [answer.batch for answer in answers if not isinstance(answer, CurriculumError)]
        assert len(batches) == 2 or any(isinstance(answer, Exhausted) for answer in answers), answers
        if len(batches) == 2:
            if same:
                assert batches[0] == batches[1]
            else:
                assert not set(batches[0].prompt_ids) & set(batches[1].prompt_ids)

    def answered(self, kind: type) -> list[Answered]:
        return [answered for answered in self.client.history.values() if isinstance(answered.request, kind)]

    def report_request(self, batch: pb.Batch | None, excess: int = 0) -> pb.ReportRolloutsRequest:
        rng = self.rng
        if batch is None:
            ids = [f"p{i}" for i in rng.sample(range(self.prompts), 3)]
            counts = [rng.randrange(5) for _ in ids]
        else:
            slots = sorted(rng.sample(range(len(batch.prompt_ids)), rng.randint(1, len(batch.prompt_ids))))
            if rng.random() < 0.5:
                slots = list(range(len(batch.prompt_ids)))
            ids = [batch.prompt_ids[slot] for slot in slots]
            counts = [
                max(0, batch.quotas[slot] - (rng.randrange(3) if rng.random() < 0.3 else 0)) + excess
                for slot in slots
            ]
        request = pb.ReportRolloutsRequest(
            curriculum_id=CURRICULUM,
            request_id=self.name("report"),
            lease_id=batch.lease_id if batch else "",
            prompt_ids=ids,
            rollout_counts=counts,
            rewards=[float(rng.random() < 0.5) for _ in range(sum(counts))],
            policy_version=max(0, self.policy_version - rng.choice([0, 0, 1, 12])),
        )
        if rng.random() < 0.3:
            request.statuses.extend(rng.choice([1, 1, 2, 3, 5]) for _ in request.rewards)
        if rng.random() < 0.1 and request.rewards:
            request.rewards[0] = math.nan
        return request

    def lease(self, number: int) -> pb.Batch | None:
        """A batch that was granted at some time, late ones more often than not."""
        granted = self.answered(pb.NextBatchRequest)
        return granted[-1 - number % min(len(granted), 6)].answer.batch if granted else None

    @rule(who=replica, number=choice, excess=st.sampled_from([0, 0, 0, 3]), give_up=gives_up)
    def report(self, who: int, number: int, excess: int, give_up: bool) -> None:
        timeline, batch = self.client.timeline, self.lease(number)
        answer = self.run(self.client.ask(who, self.report_request(batch, excess), give_up=give_up))
        if timeline == 0:
            self.must_be_done(answer)
        assert not isinstance(answer, CurriculumError) or isinstance(answer, NotFound), answer

    @rule(number=choice, same=st.booleans())
    def both_are_told_of_a_lease_at_once(self, number: int, same: bool) -> None:
        first = self.report_request(self.lease(number))
        second = first if same else self.report_request(self.lease(number))
        self.run(self.client.ask_both(first, second))

    @rule(who=replica)
    def report_outside_any_lease(self, who: int) -> None:
        self.must_be_done(self.run(self.client.ask(who, self.report_request(None))))

    @rule(who=replica, number=choice)
    def repeat_a_request(self, who: int, number: int) -> None:
        self.run(self.client.settle())
        history = list(self.client.history.values())
        earlier = history[number % len(history)]
        known = earlier.request.request_id in self.client.expected().remembered
        answer = self.run(self.client.ask(who, earlier.request))
        if known:
            # Leases do not outlive a return to a checkpoint, which the batch's request id may.
            forgotten = isinstance(answer, FailedPrecondition) and answer.reason == "BATCH_FORGOTTEN"
            assert answer.duplicate if not forgotten else self.client.timeline > 0

    @rule(who=replica, number=choice)
    def repeat_an_id_with_another_payload(self, who: int, number: int) -> None:
        reports = self.answered(pb.ReportRolloutsRequest)
        if not reports:
            return
        self.run(self.client.settle())
        forged = pb.ReportRolloutsRequest()
        forged.CopyFrom(reports[number % len(reports)].request)
        forged.policy_version += 1
        if forged.request_id in self.client.expected().remembered:
            answer = self.run(self.client.ask(who, forged))
            assert isinstance(answer, InvalidArgument | NotFound), answer

    @rule(who=replica, number=choice, give_up=gives_up)
    def release(self, who: int, number: int, give_up: bool) -> None:
        if (batch := self.lease(number)) is not None:
            request = pb.ReleaseBatchRequest(
                curriculum_id=CURRICULUM, request_id=self.name("release"), lease_id=batch.lease_id
            )
            self.run(self.client.ask(who, request, give_up=give_up))

    @rule(who=replica, step=st.integers(0, 2), kl=st.sampled_from([None, 0.0, 0.3]), again=st.booleans())
    def advance_the_policy(self, who: int, step: int, kl: float | None, again: bool) -> None:
        self.policy_version += step
        request = pb.AdvancePolicyRequest(
            curriculum_id=CURRICULUM,
            request_id=self.name("advance"),
            policy_version=self.policy_version,
            kl=kl,
            start_iteration=again,
        )
        answer = self.run(self.client.ask(who, request))
        # Requests of a time that was turned back may come again, with the policy of that time.
        if self.client.timeline == 0 or not isinstance(answer, FailedPrecondition):
            self.must_be_done(answer)

    @rule(
        who=replica,
        strategy=st.sampled_from(EXACT * 2 + AGEING),
        lease_seconds=st.sampled_from([LONG, SHORT]),
    )
    def change_the_strategy(self, who: int, strategy: dict[str, Any], lease_seconds: float) -> None:
        self.ageless &= strategy in EXACT
        request = pb.UpdateCurriculumRequest(
            curriculum_id=CURRICULUM,
            request_id=self.name("strategy"),
            strategy=strategy_of(strategy, lease_seconds),
        )
        self.must_be_done(self.run(self.client.ask(who, request)))

    @rule(who=replica, rounds=st.integers(1, 3))
    def follow_the_shadows(self, who: int, rounds: int) -> None:
        """Reports of both replicas may come between; what the wire does to them is not the client's concern."""
        for _ in range(rounds):
            self.run(self.replicas.running[who].shadowing.look_round())

    @rule(who=replica)
    def read_your_writes_elsewhere(self, who: int) -> None:
        newest = max(self.client.history)
        request = pb.GetCurriculumRequest(curriculum_id=CURRICULUM, min_revision=f"{newest[0]}-{newest[1]}")

        async def read() -> pb.GetCurriculumResponse:
            while True:
                try:
                    return await self.replicas.running[who].host.get_curriculum(request)
                except LogError:
                    await asyncio.sleep(0.05)

        assert parse_revision(self.run(read()).curriculum.revision) >= newest

    # -- checkpoints ---------------------------------------------------------------------

    @rule(who=replica, give_up=gives_up)
    def keep_a_checkpoint(self, who: int, give_up: bool) -> None:
        request = pb.CreateCheckpointRequest(
            curriculum_id=CURRICULUM, request_id=self.name("keep"), checkpoint_id=self.name("checkpoint")
        )
        self.must_be_done(self.run(self.client.ask(who, request, give_up=give_up)))

    def checkpoint(self, number: int) -> str | None:
        self.run(self.client.settle())
        kept = sorted(self.client.expected().checkpoints)
        return kept[number % len(kept)] if kept else None

    @rule(who=replica, number=choice)
    def go_back_to_a_checkpoint(self, who: int, number: int) -> None:
        if (checkpoint := self.checkpoint(number)) is not None:
            request = pb.RestoreCheckpointRequest(
                curriculum_id=CURRICULUM, request_id=self.name("back"), checkpoint_id=checkpoint
            )
            self.must_be_done(self.run(self.client.ask(who, request)))
            self.policy_version = self.client.expected().policy_version

    @rule(who=replica, number=choice)
    def delete_a_checkpoint(self, who: int, number: int) -> None:
        if (checkpoint := self.checkpoint(number)) is not None:
            request = pb.DeleteCheckpointRequest(
                curriculum_id=CURRICULUM, request_id=self.name("delete"), checkpoint_id=checkpoint
            )
            self.must_be_done(self.run(self.client.ask(who, request)))

    @staticmethod
    def must_be_done(answer: Any) -> None:
        assert not isinstance(answer, CurriculumError), answer


def strategy_of(parts: dict[str, Any], lease_seconds: float) -> pb.Strategy:
    return json_format.ParseDict({**parts, "lease_seconds": lease_seconds}, pb.Strategy())
