"""What must hold after a run: by the log's own entries, the trainers' journals, and an oracle in plain Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.archive import read_archive
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import parse_revision
from tests.chaos.trainer import CURRICULUM
from tests.curriculum_invariants import no_lease_exceeds_its_budget, no_prompt_is_in_two_leases
from tests.evidence_oracle import Answered, Expected, expected_after
from tests.replicas_under_faults import LogAccount

_PATIENCE_SECONDS: Final = 120.0
_NOT_NOW: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass
class Told:
    """What the trainers noted."""

    sent: dict[str, pb.ReportRolloutsRequest] = field(default_factory=dict)
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By lease."""
    advances: dict[str, int] = field(default_factory=dict)

    @classmethod
    def by(cls, journals: Iterable[Mapping[str, Any]]) -> Told:
        """All lines of all trainers."""
        told = cls()
        for line in journals:
            if line["kind"] == "sends":
                message = pb.ReportRolloutsRequest.FromString(bytes.fromhex(line["message"]))
                assert told.sent.setdefault(line["request_id"], message) == message
            elif line["kind"] == "acknowledged":
                known = told.acknowledged.setdefault(line["request_id"], dict(line))
                assert known == line, f"{known} was answered again as {line}"
            elif line["kind"] == "batch":
                known = told.batches.setdefault(line["lease_id"], dict(line))
                assert known["prompt_ids"] == line["prompt_ids"], "a lease has changed its prompts"
            elif line["kind"] == "advances":
                told.advances[line["request_id"]] = line["policy_version"]
        return told


def fold(account: LogAccount) -> CurriculumState:
    """The log from its first entry on; at no point is a prompt in two live leases, or a budget exceeded."""
    machine: CurriculumMachine | None = None
    for revision in account:
        event, millis = account.event(revision), parse_revision(revision)[0]
        if machine is None:
            machine = CurriculumMachine(create_state(event, revision, millis))
            continue
        machine.apply(event, revision, millis)
        if event.WhichOneof("event") == "batch_granted":
            no_prompt_is_in_two_leases(machine.state)
    assert machine is not None
    no_lease_exceeds_its_budget(machine.state)
    return machine.state


def history(
    told: Told, account: LogAccount, added: pb.AddPromptsRequest, stub: CurriculumServiceStub
) -> list[Answered]:
    """Every request that was carried out and its first answer, which is asked for again."""
    answered = []
    grants: dict[str, tuple[str, log_pb2.Event]] = {}
    for revision in account:
        event = account.event(revision)
        kind = event.WhichOneof("event")
        if kind == "batch_granted":
            grants.setdefault(event.batch_granted.lease_id, (revision, event))
        elif kind == "prompts_added":
            answered.append(Answered(added, None, parse_revision(revision)))
    for lease_id, batch in told.batches.items():
        request = pb.NextBatchRequest(policy_version=batch["policy_version"], request_id=f"batch {lease_id}")
        answer = pb.NextBatchResponse()
        answer.batch.lease_id = lease_id
        answer.batch.prompt_ids.extend(batch["prompt_ids"])
        answer.batch.quotas.extend(batch["quotas"])
        answered.append(Answered(request, answer, parse_revision(grants[lease_id][0])))
    for request_id, message in told.sent.items():
        known = told.acknowledged.get(request_id)
        # Its lease may have been closed and forgotten before it came.
        report = _asked_again(stub.ReportRollouts, message, grpc.StatusCode.NOT_FOUND)
        if known is not None:
            assert report is not None, f"{request_id} was acknowledged, and is not known any more"
            assert report.duplicate, f"{request_id} was acknowledged, and is not known any more"
            first = {"accepted": report.accepted, "revision": report.revision}
            assert first == {name: known[name] for name in first}, f"{request_id} has another outcome now"
        if report is not None:
            answered.append(Answered(message, report, parse_revision(report.revision)))
    for request_id, version in told.advances.items():
        advance = pb.AdvancePolicyRequest(
            curriculum_id=CURRICULUM, request_id=request_id, policy_version=version
        )
        # Another trainer may have been ahead.
        advanced = _asked_again(stub.AdvancePolicy, advance, grpc.StatusCode.FAILED_PRECONDITION)
        if advanced is not None:
            answered.append(Answered(advance, advanced, parse_revision(advanced.revision)))
    return answered


def _asked_again(call: Callable[..., Any], request: Any, refusal: grpc.StatusCode) -> Any:
    """The answer to a request that was made before; None if it is refused so."""
    try:
        return answer_of(call, request)
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() is refusal:
            return None
        raise


def answer_of(call: Callable[..., Any], request: Any) -> Any:
    """The answer, of a worker that may still be loading, or be started again, after what it went through."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call(request, timeout=_PATIENCE_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            known = isinstance(error, grpc.Call) and error.code() in _NOT_NOW
            if not known or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def evidence_is_that_of(expected: Expected, state: CurriculumState) -> None:
    """Prior and unique reports, prompt by prompt."""
    table = state.table
    tallies = [expected.tallies[id_] for id_ in table.ids(np.arange(table.size))]
    assert table.column("rollouts").tolist() == [tally.rollouts for tally in tallies]
    assert table.column("visits").tolist() == [tally.visits for tally in tallies]
    assert table.column("successes").tolist() == [tally.positives for tally in tallies]
    assert table.column("failures").tolist() == [tally.negatives for tally in tallies]
    assert state.policy_version == expected.policy_version


def evidence_is_prior_and_unique_reports(answered: list[Answered], state: CurriculumState) -> None:
    """As the oracle counts them; and it would have noticed a report more or less."""
    evidence_is_that_of(expected_after(answered), state)
    counted = next(
        one
        for one in answered
        if isinstance(one.request, pb.ReportRolloutsRequest) and one.answer.accepted > 0
    )
    without = [one for one in answered if one is not counted]
    try:
        evidence_is_that_of(expected_after(without), state)
    except AssertionError:
        return
    raise AssertionError("a report too many would not be noticed")


def batches_are_those_of_the_log(told: Told, account: LogAccount, state: CurriculumState) -> None:
    """What trainers were given is what was granted."""
    for revision in account:
        event = account.event(revision)
        if event.WhichOneof("event") == "batch_granted" and event.batch_granted.lease_id in told.batches:
            batch, granted = told.batches[event.batch_granted.lease_id], event.batch_granted
            rows = np.frombuffer(granted.rows, dtype="<i4")
            assert state.table.ids(rows) == batch["prompt_ids"]
            assert np.frombuffer(granted.quotas, dtype="<i4").tolist() == batch["quotas"]


def state_of(stub: CurriculumServiceStub, path: Path, min_revision: str) -> CurriculumState:
    """The whole state that one worker has in memory, by its export."""
    request = pb.ExportCurriculumRequest(curriculum_id=CURRICULUM, min_revision=min_revision)

    def export(request: pb.ExportCurriculumRequest, **options: Any) -> None:
        with path.open("wb") as file:
            for piece in stub.ExportCurriculum(request, **options):
                file.write(piece.data)

    answer_of(export, request)
    return CurriculumState.restore(read_archive(path)[1])
