"""Calls that only look: at the states of prompts, at the summary, at what another strategy would have done."""

from __future__ import annotations

import asyncio

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogClient
from sampler_service.replica import reading
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.replaying import replay_curriculum
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["ReadCalls"]


class ReadCalls(CurriculumCalls):
    """ListPromptStates, GetSummary, ReplayCurriculum."""

    def __init__(self, client: LogClient, settings: ReplicaSettings, *, seed: int | None = None) -> None:
        super().__init__(client, settings, seed=seed)
        self._replaying = asyncio.Semaphore(1)  # They are long, and take a processor each.

    async def list_prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        """ListPromptStates."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            if request.filter.prompt_ids:
                await replica.index_ids()
            return await asyncio.to_thread(reading.prompt_states, replica.state, request)

    async def get_summary(self, request: pb.GetSummaryRequest) -> pb.GetSummaryResponse:
        """GetSummary."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            state = replica.state
            large = state.table.size >= self._settings.background_refresh_prompts
            rates = await asyncio.to_thread(reading.cluster_rates, state) if large else None
        summary = reading.summary(
            state, request.bins, reading.cluster_rates(state) if rates is None else rates
        )
        summary.stale = replica.stale
        return pb.GetSummaryResponse(summary=summary)

    async def replay_curriculum(self, request: pb.ReplayCurriculumRequest) -> pb.ReplayCurriculumResponse:
        """ReplayCurriculum."""
        async with self._replaying:
            return await replay_curriculum(await self._reading(request.curriculum_id), request)
