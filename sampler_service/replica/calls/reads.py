"""Calls that only look: at the states of prompts, at the summary, at what another strategy would have done."""

from __future__ import annotations

import asyncio

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogClient
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.pool_figures import look_at_pool
from sampler_service.replica.prompt_history import prompt_history
from sampler_service.replica.prompt_listing import prompt_states
from sampler_service.replica.reading import histogram_bins, summary
from sampler_service.replica.replaying import replay_curriculum
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["ReadCalls"]


class ReadCalls(CurriculumCalls):
    """ListPromptStates, GetPromptHistory, GetSummary, ReplayCurriculum."""

    def __init__(self, client: LogClient, settings: ReplicaSettings, *, seed: int | None = None) -> None:
        super().__init__(client, settings, seed=seed)
        self._reading_logs = asyncio.Semaphore(2)  # Each holds a page of the log and a thread.
        self._replaying = asyncio.Semaphore(1)  # They are long, and take a processor each.

    async def list_prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        """ListPromptStates."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            if request.filter.prompt_ids:
                await replica.index_ids()
            page = await asyncio.to_thread(prompt_states, replica.state, request)
        page.stale = replica.stale
        return page

    async def get_prompt_history(self, request: pb.GetPromptHistoryRequest) -> pb.GetPromptHistoryResponse:
        """GetPromptHistory."""
        with self._curricula.in_use(request.curriculum_id):
            async with self._reading_logs:
                replica = await self._reading(request.curriculum_id, request.min_revision)
                return await prompt_history(replica, request)

    async def get_summary(self, request: pb.GetSummaryRequest) -> pb.GetSummaryResponse:
        """GetSummary."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            state = replica.state
            large = state.table.size >= self._settings.background_refresh_prompts
            bins = histogram_bins(request.bins)
            pool = await asyncio.to_thread(look_at_pool, state, bins) if large else look_at_pool(state, bins)
        message = summary(state, bins, pool)
        message.stale = replica.stale
        message.lag_seconds = replica.lag_seconds
        return pb.GetSummaryResponse(summary=message)

    async def replay_curriculum(self, request: pb.ReplayCurriculumRequest) -> pb.ReplayCurriculumResponse:
        """ReplayCurriculum."""
        async with self._replaying:
            return await replay_curriculum(await self._reading(request.curriculum_id), request)
