"""Calls about whole curricula: created, brought in and out as files, listed, updated, deleted."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.combinations import check_pool
from sampler_service.curriculum.errors import (
    Aborted,
    AlreadyExists,
    CurriculumError,
    InvalidArgument,
    NotFound,
)
from sampler_service.curriculum.fold_version import FOLD_VERSION
from sampler_service.curriculum.presets import DEFAULT_PRESET
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import LogError, LogExistsError, Outline, SnapshotError
from sampler_service.replica.allocator import give_back_memory
from sampler_service.replica.answers import curriculum_message
from sampler_service.replica.calls.base import CurriculumCalls
from sampler_service.replica.outlining import outline
from sampler_service.replica.portability import ReceivedExport, export_chunks
from sampler_service.replica.requests import (
    fingerprint,
    require_id,
    require_request_id,
    strategy_to_message,
    to_strategy,
)

__all__ = ["AdministrationCalls"]

_log = structlog.get_logger(__name__)

_DEFAULT_PAGE: Final = 100
_MAX_PAGE: Final = 1000
_LISTED_AT_ONCE: Final = 16
# A replica that has a curriculum in memory keeps its outline every few seconds.
_FOLLOWED_SECONDS: Final = 60.0


class AdministrationCalls(CurriculumCalls):
    """CreateCurriculum, GetCurriculum, ListCurricula, UpdateCurriculum, DeleteCurriculum; import and export."""

    async def create_curriculum(self, request: pb.CreateCurriculumRequest) -> pb.CreateCurriculumResponse:
        """CreateCurriculum."""
        _require_request_id(request)
        require_id(request.curriculum_id, "curriculum_id")
        strategy = to_strategy(request.strategy)
        preset = request.strategy.preset or DEFAULT_PRESET
        if request.validate_only:
            if await self._client.log(request.curriculum_id).exists():
                raise _exists(request.curriculum_id)
            would_be = CurriculumState(request.curriculum_id, strategy, preset)
            return pb.CreateCurriculumResponse(curriculum=curriculum_message(would_be))
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            curriculum_created=log_pb2.CurriculumCreated(
                curriculum_id=request.curriculum_id,
                strategy_json=strategy.to_json(),
                preset=preset,
                fold_version=FOLD_VERSION,
            ),
        )
        duplicate = False
        try:
            await self._client.log(request.curriculum_id).create(event.SerializeToString())
            self._curricula.forget(request.curriculum_id)
        except LogExistsError:
            await self._require_repeat(request.curriculum_id, event)
            duplicate = True
        replica = await self.replica(request.curriculum_id)
        return pb.CreateCurriculumResponse(curriculum=curriculum_message(replica.state), duplicate=duplicate)

    async def _require_repeat(self, curriculum_id: str, event: log_pb2.Event) -> None:
        """A curriculum that is to be made exists: fine if this very request made it."""
        replica = await self._reading(curriculum_id)
        if replica.machine.recall(event) is None:
            raise _exists(curriculum_id)

    async def import_curriculum(
        self, requests: AsyncIterator[pb.ImportCurriculumRequest]
    ) -> pb.ImportCurriculumResponse:
        """ImportCurriculum."""
        with tempfile.NamedTemporaryFile(prefix="curriculum-import-") as file:
            received = await ReceivedExport.receive(requests, file, self._settings.max_import_bytes)
            duplicate = False
            try:
                await received.begin_log(self._client, self._settings.max_memory_bytes)
                self._curricula.forget(received.curriculum_id)
            except LogExistsError:
                await self._require_repeat(received.curriculum_id, received.event)
                duplicate = True
        await give_back_memory()
        replica = await self.replica(received.curriculum_id)
        return pb.ImportCurriculumResponse(curriculum=curriculum_message(replica.state), duplicate=duplicate)

    async def export_curriculum(
        self, request: pb.ExportCurriculumRequest
    ) -> AsyncIterator[pb.ExportCurriculumResponse]:
        """ExportCurriculum."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            async for piece in export_chunks(replica, request.checkpoint_id):
                yield piece

    async def get_curriculum(self, request: pb.GetCurriculumRequest) -> pb.GetCurriculumResponse:
        """GetCurriculum."""
        replica = await self._reading(request.curriculum_id, request.min_revision)
        curriculum = curriculum_message(replica.state)
        curriculum.stale = replica.stale
        return pb.GetCurriculumResponse(curriculum=curriculum)

    async def list_curricula(
        self, request: pb.ListCurriculaRequest, may_see: Callable[[str], bool] | None = None
    ) -> pb.ListCurriculaResponse:
        """ListCurricula; of those alone whose id `may_see`, if given, says yes to."""
        if request.page_size < 0:
            raise InvalidArgument(
                "INVALID_PAGE_SIZE", f"page_size = {request.page_size} must not be negative.", "page_size"
            )
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        names = sorted(
            name
            for name in await self._client.list_curricula()
            if name > request.page_token and (may_see is None or may_see(name))
        )
        page = names[:size]
        outlines = await self._client.outlines.read(page)
        response = pb.ListCurriculaResponse()
        for start in range(0, len(page), _LISTED_AT_ONCE):
            group = slice(start, start + _LISTED_AT_ONCE)
            for one in await asyncio.gather(*map(self._listed, page[group], outlines[group])):
                response.curricula.extend(one.curricula)
                if request.summaries:
                    response.summaries.extend(one.summaries)
        if len(names) > size:
            response.next_page_token = names[size - 1]
        return response

    async def _listed(self, curriculum_id: str, kept: Outline | None) -> pb.ListCurriculaResponse:
        """One line of a list; none if it was deleted a moment ago.

        From its outline where that is enough: loading what is listed would drive out what is in use.
        """
        line = pb.ListCurriculaResponse.FromString(kept.payload) if kept else pb.ListCurriculaResponse()
        followed = False
        if kept is not None:
            if kept.behind_since_millis is None:
                return line
            # Whoever wrote after it keeps a new one within seconds, unless that process was killed.
            followed = time.time() * 1000 - kept.behind_since_millis < 1000 * _FOLLOWED_SECONDS
        here = self._curricula.find(curriculum_id)
        if not followed or (here is not None and not here.gone):
            try:
                replica = await self._reading(curriculum_id, browsing=True)
                await replica.keep_outline()
                told = outline(replica.state)
            except NotFound:
                return pb.ListCurriculaResponse()
            except (CurriculumError, SnapshotError) as error:
                # It cannot be used here; the list of all the others can.
                _log.warning("listed as it was", curriculum_id=curriculum_id, why=str(error))
                line = line if line.curricula else _name_only(curriculum_id)
            except LogError:
                raise
            except Exception:
                _log.exception("listed as it was", curriculum_id=curriculum_id)
                line = line if line.curricula else _name_only(curriculum_id)
            else:
                line = told
                if not replica.stale:
                    return line
        line.curricula[0].stale = line.summaries[0].stale = True
        return line

    async def update_curriculum(self, request: pb.UpdateCurriculumRequest) -> pb.UpdateCurriculumResponse:
        """UpdateCurriculum."""
        _require_request_id(request)
        strategy = to_strategy(request.strategy)
        preset = request.strategy.preset or DEFAULT_PRESET
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            strategy_updated=log_pb2.StrategyUpdated(
                strategy_json=strategy.to_json(),
                preset=preset,
                etag=request.etag,
                fold_version=FOLD_VERSION,
            ),
        )
        replica = await self._reading(request.curriculum_id)
        if request.validate_only:
            check_pool(strategy, replica.state)
            replica.machine.check(event)
            would_be = curriculum_message(replica.state)
            would_be.strategy.CopyFrom(strategy_to_message(strategy, preset))
            would_be.etag = strategy.etag
            would_be.stale = replica.stale
            return pb.UpdateCurriculumResponse(curriculum=would_be)
        if replica.machine.recall(event) is None:
            # Not in the fold: a log must fold as it did when its strategies were set.
            check_pool(strategy, replica.state)
        replica, outcome = await self._mutate(request.curriculum_id, event)
        return pb.UpdateCurriculumResponse(
            curriculum=curriculum_message(replica.state), duplicate=outcome.duplicate
        )

    async def delete_curriculum(self, request: pb.DeleteCurriculumRequest) -> pb.DeleteCurriculumResponse:
        """DeleteCurriculum."""
        require_request_id(request.request_id)
        replica = await self._reading(request.curriculum_id)
        if request.etag and request.etag != replica.state.etag:
            raise Aborted(
                "ETAG_MISMATCH",
                f"etag = {request.etag!r}, but the strategy in force has {replica.state.etag!r}."
                " Read it again (GetCurriculum) and decide anew.",
                "etag",
            )
        revision = replica.state.revision
        await self._client.log(request.curriculum_id).delete()
        self._curricula.drop(replica)
        return pb.DeleteCurriculumResponse(revision=revision)


def _require_request_id(request: pb.CreateCurriculumRequest | pb.UpdateCurriculumRequest) -> None:
    """What only checks is not remembered, and needs no id."""
    if request.request_id or not request.validate_only:
        require_request_id(request.request_id)


def _name_only(curriculum_id: str) -> pb.ListCurriculaResponse:
    line = pb.ListCurriculaResponse()
    line.curricula.add(curriculum_id=curriculum_id)
    line.summaries.add(curriculum_id=curriculum_id)
    return line


def _exists(curriculum_id: str) -> AlreadyExists:
    return AlreadyExists(
        "CURRICULUM_EXISTS",
        f"curriculum_id = {curriculum_id!r} exists. Use it, delete it first, or choose another id.",
        "curriculum_id",
    )
