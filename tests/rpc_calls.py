"""Short ways to call the service in tests, and to look at how it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2, status_pb2

from curriculum.v1 import curriculum_pb2 as pb

if TYPE_CHECKING:
    from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceAsyncStub


@dataclass(frozen=True)
class Refused:
    """What a client can see of a refusal."""

    code: str
    reason: str = ""
    field: str = ""
    message: str = ""
    domain: str = ""
    retry_after_seconds: float | None = None

    @property
    def said(self) -> tuple[str, str, str]:
        return self.code, self.reason, self.field


def refusal_of(error: grpc.RpcError) -> Refused:
    assert isinstance(error, grpc.aio.AioRpcError | grpc.Call)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_seconds = None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            for detail in status.details:
                detail.Unpack(info)
                detail.Unpack(bad)
                if detail.Unpack(retry):
                    retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    field = bad.field_violations[0].field if bad.field_violations else ""
    return Refused(
        error.code().name, info.reason, field, error.details() or "", info.domain, retry_after_seconds
    )


async def refused(call: Awaitable[object]) -> Refused:
    """The refusal of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


def new_id() -> str:
    return uuid.uuid4().hex


async def create(
    stub: CurriculumServiceAsyncStub, curriculum_id: str = "math", preset: str = "frontier", **parts: Any
) -> pb.Curriculum:
    strategy = ParseDict({"preset": preset, **parts}, pb.Strategy())
    request = pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id=curriculum_id, strategy=strategy)
    return (await stub.CreateCurriculum(request)).curriculum


async def add(
    stub: CurriculumServiceAsyncStub, prompt_ids: Iterable[str], curriculum_id: str = "math", **columns: Any
) -> pb.AddPromptsResponse:
    request = pb.AddPromptsRequest(
        curriculum_id=curriculum_id, request_id=new_id(), prompt_ids=prompt_ids, **columns
    )
    return await stub.AddPrompts(iter([request]))


async def pool(stub: CurriculumServiceAsyncStub, prompts: int = 20, **strategy: Any) -> list[str]:
    """Curriculum `math` with prompts p0, p1, …"""
    ids = [f"p{i}" for i in range(prompts)]
    await create(stub, **strategy)
    await add(stub, ids)
    return ids


def next_batch(batch_size: int = 4, **fields: Any) -> pb.NextBatchRequest:
    defaults: dict[str, Any] = {"curriculum_id": "math", "request_id": new_id(), "batch_size": batch_size}
    return pb.NextBatchRequest(**(defaults | fields))


def report(
    prompts: Sequence[str], groups: Sequence[Sequence[float]], lease_id: str = "", **fields: Any
) -> pb.ReportRolloutsRequest:
    """One group of rewards per prompt; `fields` replace columns."""
    defaults: dict[str, Any] = {
        "curriculum_id": "math",
        "request_id": new_id(),
        "lease_id": lease_id,
        "prompt_ids": prompts,
        "rollout_counts": [len(group) for group in groups],
        "rewards": [reward for group in groups for reward in group],
    }
    return pb.ReportRolloutsRequest(**(defaults | fields))


async def states(
    stub: CurriculumServiceAsyncStub, prompt_ids: Sequence[str], curriculum_id: str = "math"
) -> pb.ListPromptStatesResponse:
    where = pb.PromptFilter(prompt_ids=prompt_ids)
    return await stub.ListPromptStates(
        pb.ListPromptStatesRequest(curriculum_id=curriculum_id, filter=where, page_size=1000)
    )
