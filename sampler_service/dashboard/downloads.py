"""The same data as files: CSV always, Parquet where pyarrow is installed."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import tables
from sampler_service.dashboard.api import Bins, Filter, MostVisits, Order, PromptId
from sampler_service.dashboard.ids_in_paths import CurriculumId
from sampler_service.dashboard.openapi import answers
from sampler_service.dashboard.reader import CurriculumReader, ReadError

__all__ = ["create_downloads"]

TableName = Literal[
    "calibration",
    "clusters",
    "estimators",
    "histogram",
    "history",
    "quota_profile",
    "shadow_series",
    "shadows",
    "uncertainty",
]

_CSV, _PARQUET = "text/csv", "application/vnd.apache.parquet"
_FAILED_PRECONDITION = 9


def create_downloads(reader: CurriculumReader) -> APIRouter:
    """Routes that answer with files from `reader`."""
    router = APIRouter(prefix="/api/v1/curricula/{curriculum_id}", default_response_class=Response)

    @router.get("/prompts.csv", responses=answers(None, _CSV))
    async def prompts_csv(
        curriculum_id: CurriculumId, where: Filter, order_by: Order = ""
    ) -> StreamingResponse:
        """All prompt states that pass the filter, as CSV."""
        request = _all_prompts(curriculum_id, where, order_by, tables.PAGE_SIZE)
        rows = tables.prompts_csv(reader, request, await reader.prompt_states(request))
        return StreamingResponse(rows, media_type=_CSV, headers=_attachment(curriculum_id, "prompts.csv"))

    @router.get("/prompts.parquet", responses=answers(None, _PARQUET))
    async def prompts_parquet(
        curriculum_id: CurriculumId, where: Filter, order_by: Order = ""
    ) -> StreamingResponse:
        """The same as Parquet, a row group per 10,000 prompts."""
        parquet = require_parquet()
        request = _all_prompts(curriculum_id, where, order_by, parquet.ROW_GROUP)
        pieces = parquet.prompts_parquet(reader, request, await reader.prompt_states(request))
        return StreamingResponse(
            pieces, media_type=_PARQUET, headers=_attachment(curriculum_id, "prompts.parquet")
        )

    @router.get("/tables/{table}.csv", responses=answers(None, _CSV))
    async def table_csv(curriculum_id: CurriculumId, table: TableName, bins: Bins = 0) -> Response:
        """One part of the summary as CSV."""
        rows = tables.SUMMARY_TABLES[table](await reader.summary(curriculum_id, bins))
        return Response(
            tables.write_csv(rows), media_type=_CSV, headers=_attachment(curriculum_id, f"{table}.csv")
        )

    @router.get("/tables/{table}.parquet", responses=answers(None, _PARQUET))
    async def table_parquet(curriculum_id: CurriculumId, table: TableName, bins: Bins = 0) -> Response:
        """The same as Parquet."""
        parquet = require_parquet()
        rows = tables.SUMMARY_TABLES[table](await reader.summary(curriculum_id, bins))
        return Response(
            parquet.write_parquet(rows),
            media_type=_PARQUET,
            headers=_attachment(curriculum_id, f"{table}.parquet"),
        )

    @router.get("/prompt-history.csv", responses=answers(None, _CSV))
    async def history_csv(
        curriculum_id: CurriculumId, prompt_id: PromptId, most_visits: MostVisits = 0
    ) -> Response:
        """One prompt's visits as CSV."""
        rows = tables.visits(await reader.prompt_history(curriculum_id, prompt_id, most_visits))
        return Response(
            tables.write_csv(rows), media_type=_CSV, headers=_attachment(curriculum_id, "prompt-history.csv")
        )

    @router.get("/prompt-history.parquet", responses=answers(None, _PARQUET))
    async def history_parquet(
        curriculum_id: CurriculumId, prompt_id: PromptId, most_visits: MostVisits = 0
    ) -> Response:
        """The same as Parquet."""
        parquet = require_parquet()
        history = await reader.prompt_history(curriculum_id, prompt_id, most_visits)
        return Response(
            parquet.visits_parquet(history),
            media_type=_PARQUET,
            headers=_attachment(curriculum_id, "prompt-history.parquet"),
        )

    return router


def require_parquet() -> ModuleType:
    """What writes Parquet.

    Raises:
        ReadError: pyarrow is not installed.
    """
    try:
        from sampler_service.dashboard import parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise ReadError(
            _FAILED_PRECONDITION,
            "PARQUET_MISSING",
            "This service was installed without pyarrow, which Parquet needs: take the CSV, or"
            " pip install 'curriculum-sampler[parquet]' and start it again.",
        ) from None
    return parquet


def _all_prompts(
    curriculum_id: str, where: pb.PromptFilter, order_by: str, page_size: int
) -> pb.ListPromptStatesRequest:
    return pb.ListPromptStatesRequest(
        curriculum_id=curriculum_id, filter=where, page_size=page_size, order_by=order_by
    )


def _attachment(curriculum_id: str, filename: str) -> dict[str, str]:
    """Headers of a file, named after its curriculum: plainly, and in full for those who know RFC 5987."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", f"{curriculum_id}-{filename}")
    full = quote(f"{curriculum_id}-{filename}".replace("/", "_"), safe="")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
    return {"content-disposition": disposition, "cache-control": "no-store"}
