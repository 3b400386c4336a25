"""A client that never gives a request up for good: what it asked, what it was answered, what it may believe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import Aborted, CurriculumError, NotFound
from sampler_service.log import LogUnavailableError, parse_revision
from sampler_service.replica import ReplicaHost
from tests.evidence_oracle import Answered, Expected, expected_after
from tests.replicas_under_faults import Replicas

_PATIENCE_SECONDS: Final = 120.0
_METHODS: Final = {
    pb.CreateCurriculumRequest: ReplicaHost.create_curriculum,
    pb.DeleteCurriculumRequest: ReplicaHost.delete_curriculum,
    pb.NextBatchRequest: ReplicaHost.next_batch,
    pb.ReportRolloutsRequest: ReplicaHost.report_rollouts,
    pb.ReleaseBatchRequest: ReplicaHost.release_batch,
    pb.AdvancePolicyRequest: ReplicaHost.advance_policy,
    pb.UpdateCurriculumRequest: ReplicaHost.update_curriculum,
    pb.CreateCheckpointRequest: ReplicaHost.create_checkpoint,
    pb.RestoreCheckpointRequest: ReplicaHost.restore_checkpoint,
    pb.DeleteCheckpointRequest: ReplicaHost.delete_checkpoint,
}


@dataclass(eq=False)
class Attempt:
    """A request under way."""

    request: Any
    floor: tuple[int, int]
    """The newest revision that was answered before this was first asked."""
    tries: int = 0


class Client:
    """Asks any replica, repeats what was not answered, and checks every answer against all earlier ones."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._floor = (0, 0)
        self.history: dict[tuple[int, int], Answered] = {}
        self.unsettled: list[Attempt] = []
        self.timeline = 0
        """Grows when time is turned back: by a restored checkpoint, or by the server's loss of memory."""

    async def create(self, who: int, request: pb.CreateCurriculumRequest) -> None:
        """The beginning of every history."""
        answer = await self._try(who, Attempt(request, self._floor), give_up=False)
        assert not isinstance(answer, CurriculumError), answer

    async def begin_anew(self, who: int, request: pb.CreateCurriculumRequest) -> None:
        """Deletes the curriculum at one replica and creates it at the other: an empty history."""
        delete = pb.DeleteCurriculumRequest(curriculum_id=request.curriculum_id, request_id="delete")
        answer = await self._try(who, Attempt(delete, self._floor), give_up=False)
        # It may have been done when the reply was lost; then there is nothing left to delete.
        assert not isinstance(answer, CurriculumError) or isinstance(answer, NotFound)
        self._replicas.forget_old_data()
        self.history = {}
        self.timeline += 1
        await self.create(1 - who, request)

    async def ask(self, who: int, request: Any, *, give_up: bool = False) -> Any:
        """The answer, or the refusal as an exception object; None when given up for now."""
        attempt = Attempt(request, self._floor)
        answer = await self._try(who, attempt, give_up=give_up)
        if answer is None:
            self.unsettled.append(attempt)
        else:
            self._believe(attempt, answer)
        return answer

    async def ask_a_dying_one(self, who: int, request: Any) -> None:
        """Asks a replica that is about to go: its answer reaches nobody, and somebody else will be asked."""
        attempt = Attempt(request, self._floor)
        self.unsettled.append(attempt)
        attempt.tries += 1
        await self._call(self._replicas.running[who].host, request)

    async def ask_both(self, *requests: Any) -> list[Any]:
        """Asks the replicas in turn, all at once."""
        attempts = [Attempt(request, self._floor) for request in requests]
        answers = await asyncio.gather(
            *(self._try(number % 2, attempt, give_up=False) for number, attempt in enumerate(attempts))
        )
        # Which of two equal requests came first is not for us to say: the other one is the duplicate.
        for attempt, answer in sorted(
            zip(attempts, answers, strict=True), key=lambda pair: getattr(pair[1], "duplicate", True)
        ):
            self._believe(attempt, answer)
        return answers

    async def settle(self) -> None:
        """Repeats everything that was given up until it is answered."""
        unsettled, self.unsettled = self.unsettled, []
        for number, attempt in enumerate(unsettled):
            self._believe(attempt, await self._try(number % 2, attempt, give_up=False))

    async def _try(self, who: int, attempt: Attempt, *, give_up: bool) -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            attempt.tries += 1
            try:
                return await self._call(self._replicas.running[who].host, attempt.request)
            except LogUnavailableError as away:
                if give_up:
                    return None
                pause: float = away.retry_after_seconds
            except Aborted as busy:
                pause = busy.retry_after_seconds or 0.05
            except CurriculumError as refusal:
                return refusal
            assert time.monotonic() < deadline, f"never answered: {attempt.request}"
            await asyncio.sleep(min(pause, 0.2))

    @staticmethod
    async def _call(host: ReplicaHost, request: Any) -> Any:
        if isinstance(request, pb.AddPromptsRequest):

            async def chunks() -> AsyncIterator[pb.AddPromptsRequest]:
                yield request

            return await host.add_prompts(chunks())
        return await _METHODS[type(request)](host, request)

    def _believe(self, attempt: Attempt, answer: Any) -> None:
        if isinstance(answer, CurriculumError):
            assert answer.reason != "FOLD_FAILED", answer
            return
        request = attempt.request
        text = self._revision_of(request, answer)
        revision = parse_revision(text)
        first = self.history.get(revision)
        if first is not None:
            assert answer.duplicate, f"{request.request_id} shares revision {text} and is no duplicate"
            assert first.request.request_id == request.request_id
            assert _lasting(answer) == _lasting(first.answer), "not the first outcome"
            return
        assert not answer.duplicate or attempt.tries > 1, "a duplicate of something never asked"
        assert revision > attempt.floor, f"revision {text} is not after {attempt.floor}"
        self._floor = max(self._floor, revision)
        answered = Answered(request, answer, revision)
        if isinstance(request, pb.CreateCheckpointRequest):
            self._replicas.account.read_on()
            kept = self._replicas.account.event(text).checkpoint_created.revision
            answered.kept_revision = parse_revision(kept)
            assert answered.kept_revision >= attempt.floor, "the checkpoint misses what was acknowledged"
        if isinstance(request, pb.RestoreCheckpointRequest):
            self.timeline += 1
        self.history[revision] = answered

    def _revision_of(self, request: Any, answer: Any) -> str:
        if isinstance(answer, pb.NextBatchResponse):
            return answer.batch.revision
        if isinstance(answer, pb.UpdateCurriculumResponse):
            # It tells of the curriculum as it is by now.
            self._replicas.account.read_on()
            return self._replicas.account.revision_of(request.request_id)
        revision: str = answer.revision
        return revision

    def forget_what_was_lost(self) -> None:
        """The server has lost its last writes: what they answered never was."""
        account = self._replicas.account
        self.history = {
            revision: answered
            for revision, answered in self.history.items()
            if f"{revision[0]}-{revision[1]}" in account
        }
        self._floor = max(self.history, default=(0, 0))
        self.timeline += 1

    def expected(self) -> Expected:
        """What the curriculum must hold, once nothing is unsettled."""
        assert not self.unsettled
        return expected_after(self.history.values())


def _lasting(answer: Any) -> Any:
    """What a repeat must be answered too; the rest tells how things are by now."""
    plain = type(answer)()
    plain.CopyFrom(answer)
    for passing in ("duplicate", "total", "curriculum"):
        if passing in plain.DESCRIPTOR.fields_by_name:
            plain.ClearField(passing)
    return plain
