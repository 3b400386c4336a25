"""Prompts are added: a stream of chunks, each an event or several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.replica.allocator import give_back_memory
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.requests import fingerprint, prompts_events, require_request_id
from sampler_service.replica.snapshotting import hold_back

__all__ = ["PromptCalls"]

_LARGE_BYTES: Final = 32 * 2**20


class PromptCalls(CurriculumCalls):
    """AddPrompts."""

    async def add_prompts(self, requests: AsyncIterator[pb.AddPromptsRequest]) -> pb.AddPromptsResponse:
        """AddPrompts."""
        curriculum_id = request_id = ""
        response = pb.AddPromptsResponse(duplicate=True)
        number = streamed_bytes = 0
        async for request in requests:
            streamed_bytes += request.ByteSize()
            if number == 0:
                curriculum_id, request_id = request.curriculum_id, request.request_id
                require_request_id(request_id)
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
            print_ = fingerprint(request, "curriculum_id", "request_id")
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
        if number == 0:
            raise InvalidArgument("MISSING_FIELD", "The stream ended without a chunk.", "curriculum_id")
        if streamed_bytes > _LARGE_BYTES:
            await give_back_memory()
        if not response.revision:
            response.revision, response.duplicate = replica.state.revision, False
        return response
