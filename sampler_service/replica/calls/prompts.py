"""Prompts are added: a stream of chunks, each an event or several."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import FailedPrecondition, InvalidArgument
from sampler_service.replica.allocator import give_back_memory
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.requests import fingerprint, prompts_events, require_request_id
from sampler_service.replica.snapshotting import hold_back

__all__ = ["PromptCalls"]

_LARGE_BYTES: Final = 32 * 2**20
# Number of a chunk, and of its part.
_CHUNK: Final = re.compile(r"(\d+)\.\d+")


class PromptCalls(CurriculumCalls):
    """AddPrompts."""

    async def add_prompts(self, requests: AsyncIterator[pb.AddPromptsRequest]) -> pb.AddPromptsResponse:
        """AddPrompts."""
        curriculum_id = request_id = ""
        response = pb.AddPromptsResponse(duplicate=True)
        number = first = streamed_bytes = prompts_sent = 0
        async for request in requests:
            streamed_bytes += request.ByteSize()
            if number == 0:
                curriculum_id, request_id = request.curriculum_id, request.request_id
                require_request_id(request_id)
                number = first = await self._resumed(request, response)
            elif request.curriculum_id not in ("", curriculum_id) or request.request_id not in (
                "",
                request_id,
            ):
                raise InvalidArgument(
                    "CHANGED_MIDWAY",
                    "curriculum_id and request_id must be the same (or empty) in every chunk of one AddPrompts.",
                    "curriculum_id",
                )
            number += 1
            prompts_sent += len(request.prompt_ids)
            print_ = fingerprint(request, "curriculum_id", "request_id", "first_chunk")
            replica = await self.replica(curriculum_id)
            for part, prompts in enumerate(await asyncio.to_thread(prompts_events, request)):
                event = log_pb2.Event(
                    request_id=f"{request_id}#{number}.{part}", fingerprint=print_, prompts_added=prompts
                )
                _, outcome = await self._mutate(curriculum_id, event)
                response.added += outcome.prompts_added.added
                response.already_present += outcome.prompts_added.already_present
                response.revision = outcome.revision
                response.duplicate &= outcome.duplicate
            response.total = replica.state.table.size
            await self._curricula.weigh(replica)
            await hold_back(replica)
        if number == first:
            raise InvalidArgument("MISSING_FIELD", "The stream ended without a chunk.", "curriculum_id")
        if streamed_bytes > _LARGE_BYTES:
            await give_back_memory()
        if not response.revision:
            response.revision, response.duplicate = replica.state.revision, False
        response.chunks = number if prompts_sent else _progress(replica, request_id).chunks
        return response

    async def _resumed(self, request: pb.AddPromptsRequest, response: pb.AddPromptsResponse) -> int:
        """Chunks before the stream that begins with `request`; what they came to is put into its response.

        Raises:
            FailedPrecondition: some of them are not there.
        """
        if request.first_chunk < 0:
            raise InvalidArgument(
                "OUT_OF_RANGE",
                f"first_chunk = {request.first_chunk} is the number of a chunk, from 1.",
                "first_chunk",
            )
        if request.first_chunk <= 1 and request.prompt_ids:
            return 0
        # Whoever goes on comes from another replica, perhaps.
        replica = await self._reading(request.curriculum_id)
        there = _progress(replica, request.request_id, request.first_chunk)
        if request.first_chunk > there.chunks + 2:
            raise FailedPrecondition(
                "CHUNKS_MISSING",
                f"first_chunk = {request.first_chunk}, but of request_id = {request.request_id!r} only"
                f" {there.chunks} chunks are known to be there. Begin at most one after them, or anew.",
                "first_chunk",
            )
        response.added, response.already_present = there.added, there.already_present
        return max(request.first_chunk - 1, 0)


class _Progress(NamedTuple):
    """How far the streams of one request have come."""

    chunks: int
    """That are in the log as a whole."""
    added: int
    already_present: int


def _progress(replica: CurriculumReplica, request_id: str, before: int = 0) -> _Progress:
    """What is remembered of a request; prompts are counted up to the chunk `before`."""
    last = added = already_present = 0
    for rest, outcome in replica.state.requests.outcomes(f"{request_id}#"):
        if (found := _CHUNK.fullmatch(rest)) is not None:
            number = int(found[1])
            last = max(last, number)
            if number < before:
                added += outcome.prompts_added.added
                already_present += outcome.prompts_added.already_present
    # Of the last one perhaps only a part.
    return _Progress(max(last - 1, 0), added, already_present)
