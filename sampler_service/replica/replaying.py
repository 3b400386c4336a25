"""ReplayCurriculum: the recorded log, folded under other strategies in a process of its own."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.checkpoints import adopt_checkpoint, require_checkpoint
from sampler_service.curriculum.errors import Aborted, InvalidArgument
from sampler_service.curriculum.machine import CurriculumMachine, adopt_import, create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.log import START, LogMissingError, SnapshotMissingError, revision_millis
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.requests import to_strategy
from sampler_service.replica.restoring import bring_embeddings, load_state

__all__ = ["begin_state", "replay_curriculum"]

_log = structlog.get_logger(__name__)

_MOST_STRATEGIES = 16
_PAGE = 256


async def replay_curriculum(
    replica: CurriculumReplica, request: pb.ReplayCurriculumRequest
) -> pb.ReplayCurriculumResponse:
    """Folds what the log still holds under each strategy of the request.

    The service reads; another process folds, so that calls do not wait for it.

    Raises:
        InvalidArgument: no strategy, too many, or one that is not valid.
        Aborted: the log was trimmed while it was read.
    """
    if not 0 < len(request.strategies) <= _MOST_STRATEGIES:
        raise InvalidArgument(
            "INVALID_STRATEGIES",
            f"strategies has {len(request.strategies)} entries; 1 to {_MOST_STRATEGIES} can be compared.",
            "strategies",
        )
    strategies: dict[str, Strategy] = {}
    for number, message in enumerate(request.strategies):
        name = message.preset or f"strategy {number + 1}"
        if name in strategies:
            name = f"{name} ({number + 1})"
        strategies[name] = to_strategy(message)
    base, events = await _history(replica)
    if any(strategy.uses_embeddings for strategy in strategies.values()):
        await bring_embeddings(replica.store, base)
    payload: dict[str, Any] = {
        "arrays": base.export(),
        "away": [] if base.table.embeddings is None else list(base.table.embeddings.away),
        "events": events,
        "strategies": {name: strategy.to_json() for name, strategy in strategies.items()},
        "most_compared": request.most_batches or 64,
    }
    response = pb.ReplayCurriculumResponse.FromString(await _in_another_process(payload))
    response.from_revision = base.revision
    return response


async def _history(replica: CurriculumReplica) -> tuple[CurriculumState, list[tuple[bytes, str]]]:
    """The oldest state from which the log is whole, and the events since."""
    horizon = await replica.log.horizon()
    try:
        if horizon == START:
            base, position = None, START
        else:
            _, base = await load_state(replica.store, horizon)
            position = horizon
        events: list[tuple[bytes, str]] = []
        last = await replica.log.last_id()
        while position != last and (page := await replica.log.read(position, _PAGE)):
            for entry in page:
                position = entry.id
                event = log_pb2.Event.FromString(entry.payload)
                kind = event.WhichOneof("event")
                if base is None:
                    base = await begin_state(replica, event, entry.id)
                elif kind == "checkpoint_restored" and (
                    restored := await _restored(replica, base, events, event, entry.id)
                ):
                    # What the trainer went back from was not what it went on with.
                    base, events = restored, []
                else:
                    events.append((entry.payload, entry.id))
                if position == last:
                    break
    except (SnapshotMissingError, LogMissingError) as error:
        raise Aborted("LOG_TRIMMED", "The log was trimmed while it was read; ask again.") from error
    assert base is not None
    return base, events


async def begin_state(replica: CurriculumReplica, event: log_pb2.Event, revision: str) -> CurriculumState:
    """The state after a log's first event."""
    if event.WhichOneof("event") != "curriculum_imported":
        return create_state(event, revision, revision_millis(revision))
    _, kept = await load_state(replica.store, event.curriculum_imported.revision)
    return adopt_import(kept, event, revision, revision_millis(revision))


async def _restored(
    replica: CurriculumReplica,
    base: CurriculumState,
    events: list[tuple[bytes, str]],
    event: log_pb2.Event,
    revision: str,
) -> CurriculumState | None:
    """The state after a restore, None if it was refused or a repeat."""
    machine = CurriculumMachine(base)
    if any(_needs_embeddings(payload) for payload, _ in events):
        await bring_embeddings(replica.store, base)

    def fold() -> None:
        for payload, at in events:
            machine.apply(log_pb2.Event.FromString(payload), at, revision_millis(at))

    await asyncio.to_thread(fold)
    outcome = machine.apply(event, revision, revision_millis(revision))
    if outcome.HasField("refusal") or outcome.duplicate:
        events.clear()
        return None
    kept_at = require_checkpoint(machine.state, event.checkpoint_restored.checkpoint_id)["revision"]
    _, kept = await load_state(replica.store, kept_at)
    restored = CurriculumMachine(adopt_checkpoint(kept, machine.state))
    restored.apply(event, revision, revision_millis(revision))
    return restored.state


def _needs_embeddings(payload: bytes) -> bool:
    """Whether an event puts a strategy in force that reads embeddings."""
    event = log_pb2.Event.FromString(payload)
    if event.WhichOneof("event") != "strategy_updated":
        return False
    return Strategy.from_json(event.strategy_updated.strategy_json).uses_embeddings


async def _in_another_process(payload: Mapping[str, Any]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sampler_service.replica.replay_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        data = await asyncio.to_thread(pickle.dumps, payload, pickle.HIGHEST_PROTOCOL)
        answer, errors = await process.communicate(data)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        _log.error("replay failed", status=process.returncode, errors=errors.decode(errors="replace"))
        raise RuntimeError(f"the process that replays ended with status {process.returncode}")
    return answer
