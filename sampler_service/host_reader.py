"""The host as the dashboard reads it, and the little that it writes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import structlog

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import Role, current_principal
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.strategy import resolve
from sampler_service.dashboard import ReadError
from sampler_service.replica import ReplicaHost
from sampler_service.replica.requests import strategy_to_message
from sampler_service.rpc.errors import describe

__all__ = ["HostReader", "HostWriter"]

_log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class HostReader:
    """Answers the dashboard from a host: the same messages and refusals as over gRPC.

    Asks once more whether the caller may see the curriculum: the guard goes by paths, this by what is read.
    """

    def __init__(self, host: ReplicaHost, is_draining: Callable[[], bool]) -> None:
        self._host = host
        self._is_draining = is_draining

    async def list_curricula(self, page_size: int, page_token: str) -> pb.ListCurriculaResponse:
        """One page of curricula ordered by id."""
        request = pb.ListCurriculaRequest(page_size=page_size, page_token=page_token)
        return await _translated(self._host.list_curricula(request, current_principal.get().may_see))

    async def curriculum(self, curriculum_id: str) -> pb.Curriculum:
        """One curriculum, its strategy spelt out."""
        _require_scope(curriculum_id)
        request = pb.GetCurriculumRequest(curriculum_id=curriculum_id)
        return (await _translated(self._host.get_curriculum(request))).curriculum

    async def summary(self, curriculum_id: str, bins: int) -> pb.Summary:
        """The aggregates of one curriculum."""
        _require_scope(curriculum_id)
        request = pb.GetSummaryRequest(curriculum_id=curriculum_id, bins=bins)
        return (await _translated(self._host.get_summary(request))).summary

    async def prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        """One page of prompt states that pass the request's filter."""
        _require_scope(request.curriculum_id)
        return await _translated(self._host.list_prompt_states(request))

    async def prompt_history(
        self, curriculum_id: str, prompt_id: str, most_visits: int
    ) -> pb.GetPromptHistoryResponse:
        """One prompt's visits, as far back as the log goes."""
        _require_scope(curriculum_id)
        request = pb.GetPromptHistoryRequest(
            curriculum_id=curriculum_id, prompt_id=prompt_id, most_visits=most_visits
        )
        return await _translated(self._host.get_prompt_history(request))

    async def ready(self) -> tuple[bool, str]:
        """Whether the log can be reached, the replica does not lag, and the service is not about to stop."""
        if self._is_draining():
            return False, "stopping"
        return await self._host.ready()


class HostWriter:
    """Puts strategies in force for the dashboard, and says in the log who did."""

    def __init__(self, host: ReplicaHost) -> None:
        self._host = host

    async def update_strategy(self, request: pb.UpdateCurriculumRequest) -> pb.Curriculum:
        """The same event as UpdateCurriculum's, with the same refusals; none if it is only to be checked."""
        _require_scope(request.curriculum_id, Role.ADMIN)
        answer = await _translated(self._host.update_curriculum(request))
        if request.validate_only:
            return answer.curriculum
        principal = current_principal.get()
        _log.info(
            "strategy changed",
            caller=principal.name,
            role=str(principal.role),
            curriculum_id=request.curriculum_id,
            preset=answer.curriculum.strategy.preset,
            etag_before=request.etag,
            etag=answer.curriculum.etag,
            revision=answer.curriculum.revision,
            duplicate=answer.duplicate,
        )
        return answer.curriculum

    def presets(self) -> Mapping[str, pb.Strategy]:
        """Named strategies, every part spelt out."""
        return {name: strategy_to_message(resolve(name, {}), name) for name in PRESETS}


def _require_scope(curriculum_id: str, role: Role = Role.READ) -> None:
    try:
        current_principal.get().require(role, "This", curriculum_id)
    except CurriculumError as refusal:
        raise ReadError(refusal.code, refusal.reason, refusal.message, refusal.field) from None


async def _translated(answer: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return await answer
    except Exception as error:
        refusal = describe(error)
        raise ReadError(refusal.code, refusal.reason, refusal.message, refusal.field) from error
