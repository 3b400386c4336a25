"""The read API under /api/v1: requests into reader calls, proto messages into JSON."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response, StreamingResponse

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import tables
from sampler_service.dashboard.encoding import dump_json, encode_message
from sampler_service.dashboard.errors import INVALID_ARGUMENT, NOT_FOUND
from sampler_service.dashboard.ids_in_paths import CurriculumId, IdInPath
from sampler_service.dashboard.openapi import answers
from sampler_service.dashboard.reader import CurriculumReader, ReadError
from sampler_service.dashboard.stream import SummaryFeeds

MAX_BINS = 120
MAX_PAGE_SIZE = 1000

Bins = Annotated[
    int, Query(ge=0, le=MAX_BINS, description="Bins of the histograms; 0: the service's default.")
]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
PromptId = Annotated[str, Query(max_length=4096)]
MostVisits = Annotated[int, Query(ge=0, le=1000, description="The newest so many; 0: the service's default.")]
PassRate = Annotated[float | None, Query(ge=0, le=1)]
Order = Annotated[
    str,
    Query(
        max_length=64,
        description="pass_rate, pass_rate_stddev, visits, rollouts or last_policy_version; "
        "' desc' after it turns it round.",
    ),
]


def prompt_filter(
    min_pass_rate: PassRate = None,
    max_pass_rate: PassRate = None,
    cluster: Annotated[list[str], Query(description="Any of these; none: all.")] = [],  # noqa: B006
    contains: Annotated[str, Query(max_length=4096, description="Text the prompt's id contains.")] = "",
    prompt_id: Annotated[list[str], Query(description="Exactly these prompts.")] = [],  # noqa: B006
) -> pb.PromptFilter:
    """The filter that the query string asks for; an inverted pass-rate range is refused."""
    if min_pass_rate is not None and max_pass_rate is not None and min_pass_rate > max_pass_rate:
        message = f"min_pass_rate {min_pass_rate:g} is above max_pass_rate {max_pass_rate:g}; swap them."
        raise ReadError(INVALID_ARGUMENT, "EMPTY_PASS_RATE_RANGE", message)
    return pb.PromptFilter(
        min_pass_rate=min_pass_rate,
        max_pass_rate=max_pass_rate,
        clusters=cluster,
        prompt_ids=prompt_id,
        id_contains=contains,
    )


Filter = Annotated[pb.PromptFilter, Depends(prompt_filter)]


def create_router(reader: CurriculumReader, feeds: SummaryFeeds) -> APIRouter:
    """Routes that answer from `reader`; live ones through `feeds`."""
    router = APIRouter(prefix="/api/v1", default_response_class=Response)

    @router.get("/curricula", responses=answers(pb.ListCurriculaResponse))
    async def list_curricula(page_size: PageSize = 50, page_token: str = "") -> Response:
        """One page of curricula, ordered by id."""
        return _json(encode_message(await reader.list_curricula(page_size, page_token)))

    @router.get("/curricula/{curriculum_id}", responses=answers(pb.Curriculum))
    async def get_curriculum(curriculum_id: CurriculumId) -> Response:
        """Settings and counters of one curriculum, the strategy spelt out."""
        return _json(encode_message(await reader.curriculum(curriculum_id)))

    @router.get("/curricula/{curriculum_id}/summary", responses=answers(pb.Summary))
    async def get_summary(curriculum_id: CurriculumId, bins: Bins = 0) -> Response:
        """Everything the charts show."""
        return _json(encode_message(await reader.summary(curriculum_id, bins)))

    @router.get("/curricula/{curriculum_id}/stream", responses=answers(None, "text/event-stream"))
    async def stream_summary(curriculum_id: CurriculumId, bins: Bins = 0) -> StreamingResponse:
        """Server-Sent Events: `summary` when the revision changes, `problem` when it cannot be read."""
        frames = await feeds.open(curriculum_id, bins)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(frames, media_type="text/event-stream", headers=headers)

    @router.get("/curricula/{curriculum_id}/prompts", responses=answers(pb.ListPromptStatesResponse))
    async def list_prompts(
        curriculum_id: CurriculumId,
        where: Filter,
        page_size: PageSize = 50,
        page_token: str = "",
        order_by: Order = "",
    ) -> Response:
        """One page of prompt states that pass the filter, as columns."""
        request = pb.ListPromptStatesRequest(
            curriculum_id=curriculum_id,
            filter=where,
            page_size=page_size,
            page_token=page_token,
            order_by=order_by,
        )
        return _json(encode_message(await reader.prompt_states(request)))

    @router.get("/curricula/{curriculum_id}/prompt-history", responses=answers(pb.GetPromptHistoryResponse))
    async def get_prompt_history(
        curriculum_id: CurriculumId, prompt_id: PromptId, most_visits: MostVisits = 0
    ) -> Response:
        """One prompt's visits, as far back as the log goes."""
        return _json(encode_message(await reader.prompt_history(curriculum_id, prompt_id, most_visits)))

    @router.get("/curricula/{curriculum_id}/prompts/{prompt_id:path}", responses=answers(None))
    async def get_prompt(curriculum_id: CurriculumId, prompt_id: IdInPath) -> Response:
        """One prompt's state. The id may hold slashes; percent-encode it."""
        where = pb.PromptFilter(prompt_ids=[prompt_id])
        request = pb.ListPromptStatesRequest(curriculum_id=curriculum_id, filter=where, page_size=1)
        page = await reader.prompt_states(request)
        if not page.prompt_ids:
            message = f"Curriculum {curriculum_id!r} has no prompt {prompt_id!r}; search with ?contains=."
            raise ReadError(NOT_FOUND, "PROMPT_NOT_FOUND", message)
        columns = encode_message(page)
        row: dict[str, object] = {"revision": page.revision}
        for name, column in tables.PROMPT_COLUMNS.items():
            values = columns[column]
            row[name] = values[0] if isinstance(values, list) and values else None
        return _json(row)

    return router


def _json(value: object) -> Response:
    return Response(dump_json(value), media_type="application/json", headers={"cache-control": "no-store"})
