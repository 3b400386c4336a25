"""A curriculum service that goes away is waited for and, where the settings allow it, done without."""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar, Unpack

import numpy as np

from trainer_client.client import (
    Batch,
    Directives,
    NextBatchArguments,
    Receipt,
    RefusedReport,
    Released,
    ReportResult,
    RolloutStatus,
)
from trainer_client.config import CurriculumConfig
from trainer_client.curriculum_service import CurriculumService
from trainer_client.exceptions import DeadlineError, UnavailableError
from trainer_client.stopping import StopRequest
from trainer_client.trainer_errors import ServiceAwayError

# Between two tries; the client itself retries within its own time limit.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# How long a step that is done without the service looks whether it is back.
PROBE_SECONDS = 2.0
# Rollouts of a prompt where nobody said how many.
GROUP_SIZE = 8

T = TypeVar("T")


class RemoteService(CurriculumService, Protocol):
    """The client's methods that waiting needs beyond the loop's own: its outbox."""

    @property
    def pending_reports(self) -> int:
        """Reports not yet acknowledged."""
        ...

    def flush(self, timeout_seconds: float | None = None) -> tuple[RefusedReport, ...]:
        """Sends what waits in the outbox."""
        ...

    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: Sequence[Sequence[float]],
        statuses: Sequence[Sequence[RolloutStatus]] | None = None,
        lengths: Sequence[Sequence[float]] | None = None,
        gradient_norms: Sequence[Sequence[float]] | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> ReportResult:
        """Reports rewards; a report that is not acknowledged in time stays in the outbox."""
        ...


class PatientService:
    """Stands between the loop and the client.

    While the service is away every call waits, with back-off, for `patience_seconds`. Then the run ends with
    ServiceAwayError, or, with `carry_on`, goes on: batches are drawn uniformly from the pool, their
    rollouts go to the client's outbox as rolled out under no lease, and every step looks for the service
    again. note: shows what is worth a line.
    """

    def __init__(
        self,
        remote: RemoteService,
        settings: CurriculumConfig,
        prompt_ids: Sequence[str],
        stop: StopRequest,
        note: Callable[[str], None],
        *,
        seed: int = 0,
    ) -> None:
        self.remote = remote
        self.settings = settings
        self.prompt_ids = list(prompt_ids)
        self.stop = stop
        self.note = note
        self.seed = seed
        self.alone = False
        """Whether the run goes on without the service at present."""

    def next_batch(
        self,
        curriculum_id: str,
        **arguments: Unpack[NextBatchArguments],
    ) -> Batch:
        """The service's batch, or a uniform one when it is away for good."""

        def ask() -> Batch:
            return self.remote.next_batch(curriculum_id, **arguments)

        def draw() -> Batch:
            return self._uniform_batch(curriculum_id, arguments)

        if self.alone and not self._is_back():
            return draw()
        return self._patiently("next_batch", ask, draw)

    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: Sequence[Sequence[float]],
        statuses: Sequence[Sequence[RolloutStatus]] | None = None,
        lengths: Sequence[Sequence[float]] | None = None,
        gradient_norms: Sequence[Sequence[float]] | None = None,
    ) -> ReportResult:
        """The service's answer; without it the report waits in the outbox and all rollouts are kept."""
        ids = None if prompt_ids is None else list(prompt_ids)
        request_id = str(uuid.uuid4())

        def send(timeout_seconds: float | None = None) -> ReportResult:
            return self.remote.report(
                batch_or_lease,
                ids,
                rewards=rewards,
                statuses=statuses,
                lengths=lengths,
                gradient_norms=gradient_norms,
                request_id=request_id,
                timeout_seconds=timeout_seconds,
            )

        tried = False

        def send_once() -> ReportResult:
            # The first try put it in the outbox: once that is empty, asking again gives its first outcome.
            nonlocal tried
            if tried:
                self._note_refused(self.remote.flush())
            tried = True
            return send()

        if not self.alone:
            return self._patiently("report", send_once, lambda: _no_answer(request_id))
        try:
            # Long enough to get into the outbox, which is all that is wanted of it now.
            return send(0.001)
        except (UnavailableError, DeadlineError):
            return _no_answer(request_id)

    def release(self, batch_or_lease: Batch | str) -> Released:
        """Gives a lease back; one that was drawn here, or cannot be reached, needs none."""
        lease = batch_or_lease.lease_id if isinstance(batch_or_lease, Batch) else batch_or_lease
        if self.alone or not lease:
            return Released(0, "", False)
        return self.remote.release(batch_or_lease)

    def advance_policy(self, curriculum_id: str, policy_version: int, *, kl: float | None = None) -> Receipt:
        """Says that the policy moved. What is missed meanwhile, later reports say by their version."""
        if self.alone:
            return Receipt("", False)
        return self._patiently(
            "advance_policy",
            lambda: self.remote.advance_policy(curriculum_id, policy_version, kl=kl),
            lambda: Receipt("", False),
        )

    def create_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Keeps the curriculum's state; an empty revision: it could not be kept."""
        if self.alone:
            return Receipt("", False)
        return self._patiently(
            "create_checkpoint",
            lambda: self.remote.create_checkpoint(curriculum_id, checkpoint_id),
            lambda: Receipt("", False),
        )

    def restore_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Takes the curriculum back; at the start of a run nothing stands in for the service."""
        return self.remote.restore_checkpoint(curriculum_id, checkpoint_id)

    def delete_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Forgets a kept state."""
        return self.remote.delete_checkpoint(curriculum_id, checkpoint_id)

    def _patiently(self, what: str, call: Callable[[], T], stand_in: Callable[[], T]) -> T:
        began = time.monotonic()
        pause, waited = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                answer = call()
            except (UnavailableError, DeadlineError) as error:
                left = self.settings.patience_seconds - (time.monotonic() - began)
                if left <= 0 or self.stop.requested:
                    return self._without(what, error, stand_in)
                if not waited:
                    self.note(f"the service is away, waiting for up to {left:.0f} s: {error}")
                waited = True
                self._sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if waited:
                    self.note(f"the service is back after {time.monotonic() - began:.0f} s")
                return answer

    def _without(self, what: str, error: Exception, stand_in: Callable[[], T]) -> T:
        if not self.settings.carry_on or self.stop.requested:
            raise ServiceAwayError(
                f"{what}: the service at {self.settings.target} was away for longer than "
                f"curriculum.patience_seconds = {self.settings.patience_seconds:g}; start it and go on with "
                f"--resume, or set curriculum.carry_on: true. Last error: {error}"
            ) from error
        self.alone = True
        self.note(
            "the service stays away: going on with uniform draws, rollouts are reported when it is back"
        )
        return stand_in()

    def _is_back(self) -> bool:
        try:
            self._note_refused(self.remote.flush(PROBE_SECONDS))
        except (UnavailableError, DeadlineError):
            return False
        self.alone = False
        self.note("the service is back and has what was rolled out meanwhile")
        return True

    def _note_refused(self, refused: Sequence[RefusedReport]) -> None:
        for one in refused:
            self.note(f"the service refused a report of the time it was away: {one.error}")

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stop.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _uniform_batch(self, curriculum_id: str, arguments: NextBatchArguments) -> Batch:
        count = min(arguments["batch_size"], len(self.prompt_ids))
        rollout_budget = arguments.get("rollout_budget", 0)
        rng = np.random.default_rng([self.seed, arguments.get("step") or 0])
        drawn = rng.choice(len(self.prompt_ids), size=count, replace=False)
        group = max(1, rollout_budget // count) if rollout_budget else GROUP_SIZE
        unknown = np.full(count, 0.5, dtype=np.float32)
        return Batch(
            curriculum_id=curriculum_id,
            lease_id="",
            request_id="",
            policy_version=arguments.get("policy_version", 0),
            revision="",
            expire_time=datetime.now(UTC),
            prompt_ids=[self.prompt_ids[place] for place in drawn.tolist()],
            quotas=np.full(count, group, dtype=np.int32),
            pass_rates=unknown,
            pass_rate_stddevs=unknown,
            baselines=unknown,
            probabilities=np.full(count, 1 / len(self.prompt_ids), dtype=np.float32),
            sources=np.zeros(count, dtype=np.int32),
            notes=[],
            duplicate=False,
        )


def _no_answer(request_id: str) -> ReportResult:
    none = np.zeros(0, dtype=np.int32)
    nothing = np.zeros(0, dtype=np.float32)
    return ReportResult(
        request_id, "", False, 0, (), Directives([], none, none, none, none, nothing, nothing)
    )
