"""GetPromptHistory: one prompt's visits, read from the log as far back as that goes.

Nothing is kept per prompt for it: the log is read page by page and looked through in a thread, so a question costs
what the log holds (`snapshot_events` and `snapshot_bytes`, twice at most), however many prompts there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import Aborted, InvalidArgument, NotFound
from sampler_service.curriculum.visits import Visit, VisitScan
from sampler_service.log import START, Entry, LogGapError, is_after, revision_millis
from sampler_service.replica.curriculum_replica import CurriculumReplica

__all__ = ["prompt_history"]

_DEFAULT_VISITS: Final = 200
_MAX_VISITS: Final = 1000
_PAGE: Final = 64  # Entries with prompts in them can have megabytes each.
_ATTEMPTS: Final = 3


async def prompt_history(
    replica: CurriculumReplica, request: pb.GetPromptHistoryRequest
) -> pb.GetPromptHistoryResponse:
    """The answer to a request.

    Raises:
        InvalidArgument: a number of visits that is not between 0 and 1000.
        NotFound: the prompt is not in the curriculum.
        Aborted: the log was trimmed while it was read, several times in a row.
    """
    if not 0 <= request.most_visits <= _MAX_VISITS:
        raise InvalidArgument(
            "INVALID_VISITS",
            f"most_visits = {request.most_visits} must be between 0 (the default, {_DEFAULT_VISITS}) "
            f"and {_MAX_VISITS}.",
            "most_visits",
        )
    for _ in range(_ATTEMPTS):
        try:
            return await _read(replica, request)
        except LogGapError:
            continue
    raise Aborted("LOG_TRIMMED", "The log was trimmed while it was read; ask again.")


async def _read(
    replica: CurriculumReplica, request: pb.GetPromptHistoryRequest
) -> pb.GetPromptHistoryResponse:
    await replica.index_ids()
    position = await replica.log.horizon()
    state = replica.state
    row = int(state.table.find([request.prompt_id])[0])
    if row < 0:
        raise NotFound(
            "PROMPT_NOT_FOUND",
            f"prompt_id = {request.prompt_id!r} is not in the curriculum. "
            "ListPromptStates with filter.id_contains searches.",
            "prompt_id",
        )
    scan, last = VisitScan(state, row), state.revision
    answer = pb.GetPromptHistoryResponse(
        prompt_id=request.prompt_id,
        from_revision="" if position == START else position,
        from_time_seconds=(state.created_millis if position == START else revision_millis(position)) / 1000,
        revision=last,
        rollouts_counted=int(state.table.rollouts[row]),
    )
    while page := await replica.log.read(position, _PAGE):
        wanted = [entry for entry in page if not is_after(entry.id, last)]
        await asyncio.to_thread(_look_through, scan, wanted)
        answer.events_read += len(wanted)
        position = page[-1].id
        if len(wanted) < len(page) or position == last:
            break
    _fill(answer, scan, request.most_visits or _DEFAULT_VISITS)
    return answer


def _look_through(scan: VisitScan, entries: Sequence[Entry]) -> None:
    for entry in entries:
        scan.take(log_pb2.Event.FromString(entry.payload), entry.id, entry.millis)


def _fill(answer: pb.GetPromptHistoryResponse, scan: VisitScan, most: int) -> None:
    found = scan.visits()
    visits: list[Visit] = found[-most:]
    answer.visits_found = len(found)
    answer.unattributed_reports = scan.unattributed_reports
    answer.times_seconds.extend(visit.millis / 1000 for visit in visits)
    answer.revisions.extend(visit.revision for visit in visits)
    answer.lease_ids.extend(visit.lease_id for visit in visits)
    answer.trainer_ids.extend(visit.trainer_id for visit in visits)
    answer.policy_versions.extend(visit.policy_version for visit in visits)
    answer.sources.extend(pb.Source.values()[visit.source] for visit in visits)
    answer.pass_rates.extend(visit.pass_rate for visit in visits)
    answer.pass_rate_stddevs.extend(visit.pass_rate_stddev for visit in visits)
    answer.probabilities.extend(visit.probability for visit in visits)
    answer.quotas.extend(visit.quota for visit in visits)
    answer.rollouts.extend(visit.rollouts for visit in visits)
    answer.outcomes.extend(visit.outcomes for visit in visits)
    answer.successes.extend(visit.successes for visit in visits)
    answer.mean_rewards.extend(visit.mean_reward for visit in visits)
    answer.report_times_seconds.extend(visit.report_millis / 1000 for visit in visits)
    answer.statuses.extend(pb.VisitStatus.values()[visit.status] for visit in visits)
