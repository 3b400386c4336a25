"""A small service that keeps the wire's promises and fails on demand; for tests of the client alone."""
# ruff: noqa: N802 - the names are the proto's.

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc
from tests.ports import free_port

Failure = Callable[[grpc.ServicerContext], None]


def unavailable(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "the log is away")


def stopping(context: grpc.ServicerContext) -> None:
    """What a server ends calls with for which its drain has no time left."""
    context.abort(grpc.StatusCode.CANCELLED, "")


def refused(context: grpc.ServicerContext) -> None:
    """NOT_FOUND with every kind of detail."""
    status = status_pb2.Status(code=5, message="no curriculum 'nope'")
    for detail in (
        error_details_pb2.ErrorInfo(reason="CURRICULUM_NOT_FOUND", domain="test", metadata={"id": "nope"}),
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field="curriculum_id", description="is unknown; create it first"
                )
            ]
        ),
        error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000}),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.NOT_FOUND, status.message)


def unauthenticated(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")


class FakeService(curriculum_pb2_grpc.CurriculumServiceServicer):
    """Counts each request id once; `failures[rpc]` is used up one call at a time, `always` is not."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: dict[str, list[object]] = {}
        self.failures: dict[str, deque[Failure]] = {}
        self.always: dict[str, Failure] = {}
        self.lost_replies: Counter[str] = Counter()
        self.delay_seconds = 0.0
        self.counted: list[str] = []
        self.chunks: list[pb.AddPromptsRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.break_stream_after: int | None = None
        self.break_prompts_after: int | None = None
        self._mutex = threading.Lock()

    def _enter(self, rpc: str, request: object, context: grpc.ServicerContext) -> None:
        with self._mutex:
            self.calls[rpc] += 1
            self.requests.setdefault(rpc, []).append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            queued = self.failures.get(rpc)
            failure = queued.popleft() if queued else self.always.get(rpc)
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        if failure is not None:
            failure(context)

    def _leave(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Loses the reply after the work was done."""
        with self._mutex:
            lost = self.lost_replies[rpc] > 0
            self.lost_replies[rpc] -= lost
        if lost:
            unavailable(context)

    def _count(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        with self._mutex:
            duplicate = request.request_id in self.counted
            if not duplicate:
                self.counted.append(request.request_id)
        prompts = len(request.prompt_ids)
        return pb.ReportRolloutsResponse(
            revision=str(len(self.counted)),
            duplicate=duplicate,
            accepted=len(request.rewards),
            request_id=request.request_id,
            directives=pb.Directives(
                prompt_ids=request.prompt_ids,
                actions=[pb.ACTION_DONE, *[pb.ACTION_SAMPLE_MORE] * (prompts - 1)],
                rollouts=[0, *[4] * (prompts - 1)],
                keep_positives=[1] * prompts,
                keep_negatives=[1] * prompts,
                baselines=[0.5] * prompts,
                advantage_weights=[1.0] * prompts,
            ),
        )

    def CreateCurriculum(self, request, context):
        self._enter("CreateCurriculum", request, context)
        return pb.CreateCurriculumResponse(
            curriculum=pb.Curriculum(curriculum_id=request.curriculum_id, strategy=request.strategy)
        )

    def GetCurriculum(self, request, context):
        self._enter("GetCurriculum", request, context)
        return pb.GetCurriculumResponse(curriculum=pb.Curriculum(curriculum_id=request.curriculum_id))

    def ListCurricula(self, request, context):
        self._enter("ListCurricula", request, context)
        first = int(request.page_token or 0)
        return pb.ListCurriculaResponse(
            curricula=[pb.Curriculum(curriculum_id=f"c{first + i}") for i in range(2)],
            next_page_token="" if first else "2",
        )

    def UpdateCurriculum(self, request, context):
        self._enter("UpdateCurriculum", request, context)
        return pb.UpdateCurriculumResponse(curriculum=pb.Curriculum(strategy=request.strategy))

    def DeleteCurriculum(self, request, context):
        self._enter("DeleteCurriculum", request, context)
        return pb.DeleteCurriculumResponse(revision="9")

    def AddPrompts(self, request_iterator, context):
        chunks = list(islice(request_iterator, self.break_prompts_after))
        self._enter("AddPrompts", chunks, context)
        if chunks[0].prompt_ids:
            first = max(chunks[0].first_chunk, 1)
            self.chunks[first - 1 :] = chunks
        if self.break_prompts_after is not None:
            self.break_prompts_after = None
            unavailable(context)
        added = sum(len(chunk.prompt_ids) for chunk in self.chunks)
        self._leave("AddPrompts", context)
        there = max(len(self.chunks) - 1, 0)
        return pb.AddPromptsResponse(added=added, total=added, revision="3", chunks=there)

    def ExportCurriculum(self, request, context) -> Iterator[pb.ExportCurriculumResponse]:
        self._enter("ExportCurriculum", request, context)
        for piece in (b"half ", b"and half"):
            yield pb.ExportCurriculumResponse(data=piece, revision="7")

    def ImportCurriculum(self, request_iterator, context):
        pieces = list(request_iterator)
        self._enter("ImportCurriculum", pieces, context)
        return pb.ImportCurriculumResponse(
            curriculum=pb.Curriculum(
                curriculum_id=pieces[0].curriculum_id, prompt_count=sum(len(piece.data) for piece in pieces)
            )
        )

    def ReplayCurriculum(self, request, context):
        self._enter("ReplayCurriculum", request, context)
        return pb.ReplayCurriculumResponse(
            replays=[pb.StrategyReplay() for _ in range(1 + len(request.strategies))], revision="7"
        )

    def NextBatch(self, request, context):
        self._enter("NextBatch", request, context)
        self._leave("NextBatch", context)
        earlier = [seen.request_id for seen in self.requests["NextBatch"][:-1]]
        return pb.NextBatchResponse(
            batch=pb.Batch(
                lease_id=f"lease-{request.request_id}",
                revision="4",
                prompt_ids=["a", "b"],
                quotas=[2, 3],
                pass_rates=[0.5, 0.25],
                pass_rate_stddevs=[0.1, 0.2],
                baselines=[0.5, 0.25],
                probabilities=[0.6, 0.4],
                sources=[pb.SOURCE_PROPOSAL, pb.SOURCE_REPLAY],
                notes=["a note"],
                expire_time={"seconds": 1_700_000_000},
            ),
            duplicate=request.request_id in earlier,
        )

    def ReportRollouts(self, request, context):
        self._enter("ReportRollouts", request, context)
        response = self._count(request)
        self._leave("ReportRollouts", context)
        return response

    def StreamRollouts(self, request_iterator, context) -> Iterator[pb.ReportRolloutsResponse]:
        self._enter("StreamRollouts", None, context)
        for answered, request in enumerate(request_iterator):
            if self.break_stream_after is not None and answered == self.break_stream_after:
                self.break_stream_after = None
                # Counted, but the answer is lost with the stream.
                self._count(request)
                unavailable(context)
            if "bad" in request.prompt_ids:
                yield pb.ReportRolloutsResponse(
                    request_id=request.request_id,
                    error=pb.StreamError(
                        code=3, reason="PROMPT_NOT_FOUND", field="prompt_ids[0]", message="'bad' is unknown"
                    ),
                )
            else:
                yield self._count(request)

    def ReleaseBatch(self, request, context):
        self._enter("ReleaseBatch", request, context)
        return pb.ReleaseBatchResponse(released=2, revision="5")

    def AdvancePolicy(self, request, context):
        self._enter("AdvancePolicy", request, context)
        return pb.AdvancePolicyResponse(revision="6")

    def CreateCheckpoint(self, request, context):
        self._enter("CreateCheckpoint", request, context)
        return pb.CreateCheckpointResponse(revision=f"after {len(self.counted)} reports")

    def RestoreCheckpoint(self, request, context):
        self._enter("RestoreCheckpoint", request, context)
        return pb.RestoreCheckpointResponse(revision="8")

    def ListCheckpoints(self, request, context):
        self._enter("ListCheckpoints", request, context)
        return pb.ListCheckpointsResponse(checkpoints=[pb.Checkpoint(checkpoint_id="step-1")])

    def DeleteCheckpoint(self, request, context):
        self._enter("DeleteCheckpoint", request, context)
        return pb.DeleteCheckpointResponse(revision="9")

    def ListPromptStates(self, request, context):
        self._enter("ListPromptStates", request, context)
        last = bool(request.page_token)
        return pb.ListPromptStatesResponse(
            prompt_ids=["b"] if last else ["a"],
            pass_rates=[0.5],
            in_flight=[True],
            next_page_token="" if last else "more",
        )

    def GetPromptHistory(self, request, context):
        self._enter("GetPromptHistory", request, context)
        return pb.GetPromptHistoryResponse(prompt_id=request.prompt_id, lease_ids=["l"], quotas=[4])

    def GetSummary(self, request, context):
        self._enter("GetSummary", request, context)
        return pb.GetSummaryResponse(summary=pb.Summary(curriculum_id=request.curriculum_id, prompts=7))

    def WatchSummary(self, request, context) -> Iterator[pb.WatchSummaryResponse]:
        self._enter("WatchSummary", request, context)
        first = self.calls["WatchSummary"] == 1
        for number in range(2):
            yield pb.WatchSummaryResponse(summary=pb.Summary(prompts=number if first else number + 2))
        if first:
            unavailable(context)


class RunningFake:
    """The fake on a port of loopback, which can go away and come back on the same port."""

    def __init__(self) -> None:
        self.service = FakeService()
        self.port = free_port()
        self._server: grpc.Server | None = None
        self.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 2**22)])
        curriculum_pb2_grpc.add_CurriculumServiceServicer_to_server(self.service, server)
        server.add_insecure_port(self.target)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
