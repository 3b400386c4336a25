"""The one write of the dashboard: another strategy. The guard asks for the role admin and for our own page."""

from __future__ import annotations

import uuid

from fastapi import APIRouter
from fastapi.responses import Response
from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard.encoding import dump_json, encode_message
from sampler_service.dashboard.errors import INVALID_ARGUMENT
from sampler_service.dashboard.ids_in_paths import CurriculumId
from sampler_service.dashboard.openapi import answers
from sampler_service.dashboard.reader import ReadError, StrategyWriter

__all__ = ["create_writes"]


class _NewStrategy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    strategy: dict[str, JsonValue]
    """A preset and what differs from it, or every part; names as in the API."""
    etag: str = Field(min_length=1, max_length=256)
    """Of the strategy that the change is based on: if another is in force, nothing is changed."""
    request_id: str = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1, max_length=256)
    """The same id again is answered with the first outcome."""
    validate_only: bool = False
    """Nothing is changed: the answer is the curriculum as it would be, or what is wrong."""


def create_writes(writer: StrategyWriter) -> APIRouter:
    """Routes that write through `writer`, and what one needs to write."""
    router = APIRouter(prefix="/api/v1", default_response_class=Response)

    @router.get("/presets", responses=answers(None))
    async def list_presets() -> Response:
        """Named strategies, every part spelt out."""
        presets = {name: encode_message(strategy) for name, strategy in writer.presets().items()}
        return _json({"presets": presets})

    @router.put("/curricula/{curriculum_id}/strategy", responses=answers(pb.Curriculum))
    async def put_strategy(curriculum_id: CurriculumId, given: _NewStrategy) -> Response:
        """Puts a strategy in force. With `validate_only` nothing changes: the curriculum as it would be."""
        strategy = pb.Strategy()
        try:
            json_format.ParseDict(given.strategy, strategy)
        except json_format.ParseError as error:
            message = f"The strategy is not one: {' '.join(str(error).split())}"
            raise ReadError(INVALID_ARGUMENT, "INVALID_STRATEGY", message, "strategy") from None
        request = pb.UpdateCurriculumRequest(
            request_id="" if given.validate_only else given.request_id,
            curriculum_id=curriculum_id,
            strategy=strategy,
            etag=given.etag,
            validate_only=given.validate_only,
        )
        return _json(encode_message(await writer.update_strategy(request)))

    return router


def _json(value: object) -> Response:
    return Response(dump_json(value), media_type="application/json", headers={"cache-control": "no-store"})
