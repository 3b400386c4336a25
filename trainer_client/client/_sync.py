"""The blocking client."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._arguments import NextBatchArguments
from trainer_client.client._building import request_of
from trainer_client.client._channel import DEFAULT_MAX_MESSAGE_BYTES, Endpoint, Tls
from trainer_client.client._columns import Batch, Receipt, Released, ReportResult
from trainer_client.client._connection import Connection
from trainer_client.client._delivery import Delivery
from trainer_client.client._outbox import DEFAULT_OUTBOX_MAX_BYTES, Outbox, RefusedReport
from trainer_client.client._request_ids import new_request_id
from trainer_client.client._requests import Report, check_message_size, next_batch_request, release_request
from trainer_client.client._retry import Deadline
from trainer_client.client._rollouts import GroupedOrFlat, Statuses
from trainer_client.client._stream import stream_reports
from trainer_client.client._sync_calls import CurriculumCalls
from trainer_client.exceptions import CurriculumError

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "CurriculumClient"]

DEFAULT_TIMEOUT_SECONDS = 30.0

_log = logging.getLogger("trainer_client.client")


class CurriculumClient(CurriculumCalls):
    """Blocking client of a curriculum service.

    ```python
    with CurriculumClient("localhost:50051") as client:
        batch = client.next_batch("math", batch_size=64, policy_version=0)
        result = client.report(batch, rewards=roll_out(batch.prompt_ids, batch.quotas))
    ```

    Every method raises a subclass of `trainer_client.exceptions.CurriculumError`. A call is retried
    while the service is away, for at most `timeout_seconds` (its own, else the client's); since its
    `request_id` is fixed before the first try, a retry is never counted twice.

    Reports pass through an outbox: in order, resent until the service has acknowledged or refused
    them, and with `outbox_path` kept on disk (fsync) over a crash of this process.

    Threads may share a client. Processes may not: make the client after a fork (a call in a forked
    child raises `ClientClosedError`), and give every process an `outbox_path` of its own.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        tls: bool | Tls | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        outbox_path: Path | str | None = None,
        outbox_max_bytes: int = DEFAULT_OUTBOX_MAX_BYTES,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Opens no connection yet, unless the outbox file holds reports of an earlier process.

        `target` is `host:port` (a name is resolved as `dns:///` and balanced over its addresses),
        `dns:///...` or `unix:path`. `tls`: True, a `Tls`, False for plain text, or None: plain text
        unless a token would cross the network. What is None is looked for in the environment:
        `SAMPLER_TOKEN` or `SAMPLER_TOKEN_FILE`; `SAMPLER_CLIENT_TLS`, `SAMPLER_CLIENT_CA_FILE`,
        `SAMPLER_CLIENT_CERT_FILE`, `SAMPLER_CLIENT_KEY_FILE`, `SAMPLER_CLIENT_SERVER_NAME`.
        Raises `OutboxFileError` when the file is in use.
        """
        Deadline(timeout_seconds)
        endpoint = Endpoint.make(target, token=token, tls=tls, max_message_bytes=max_message_bytes)
        outbox = Outbox(outbox_path, outbox_max_bytes)
        super().__init__(Connection(endpoint), timeout_seconds)
        self._max_message_bytes = max_message_bytes
        self._delivery = Delivery(self._connection, outbox, timeout_seconds)

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return (
            f"CurriculumClient(target={self._connection.endpoint.target!r}, "
            f"tls={self._connection.endpoint.credentials is not None}, "
            f"timeout_seconds={self._timeout_seconds}, pending_reports={self.pending_reports}, {state})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, *, flush_seconds: float = 5.0) -> None:
        """Sends what still waits, for at most `flush_seconds`, then closes. May be called twice.

        What could not be sent stays in the outbox file; without one it is lost, and logged.
        """
        if self._connection.closed:
            return
        if self._connection.forked:
            # The threads, the channel and the file are the parent's.
            return
        try:
            if flush_seconds > 0 and self.pending_reports > 0:
                self._delivery.flush(flush_seconds)
        except CurriculumError as error:
            outcome = "stay in the outbox file" if self._delivery.outbox.on_disk else "are lost"
            _log.warning(
                "%d reports were not sent and %s: %s", self.pending_reports, outcome, error.__cause__ or error
            )
        finally:
            self._delivery.stop()
            self._connection.close()
            self._delivery.join()
            self._delivery.outbox.close()

    # Batches

    def next_batch(
        self,
        curriculum_id: str,
        *,
        batch_size: int,
        rollout_budget: int = 0,
        policy_version: int = 0,
        equal_quotas: bool = False,
        run_id: str | None = None,
        step: int | None = None,
        trainer_id: str | None = None,
        min_revision: str = "",
        seed: int | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Batch:
        """Draws and leases the next batch.

        `rollout_budget` is for the whole batch, further rounds included (0: the strategy's default).
        With `run_id` and `step` the request id is derived from them: every rank that asks with the
        same arguments gets the same batch, and so does a rank that was restarted in that step.
        With a `seed` (0 to 2**64 - 1) the draw follows from it and from the curriculum's state alone:
        a run that goes back to a checkpoint gets the batches again that it had. Costs O(pool) per call.
        Raises `FailedPreconditionError` when the pool is empty.
        """
        request = next_batch_request(
            curriculum_id,
            batch_size=batch_size,
            rollout_budget=rollout_budget,
            policy_version=policy_version,
            equal_quotas=equal_quotas,
            trainer_id=trainer_id,
            run_id=run_id,
            step=step,
            request_id=request_id,
            min_revision=min_revision,
            seed=seed,
        )
        self._delivery.nudge()
        response = self._connection.call(self._stub.NextBatch, request, self._patience(timeout_seconds))
        return Batch.from_message(request, response)

    @contextmanager
    def lease(self, curriculum_id: str, **arguments: Unpack[NextBatchArguments]) -> Iterator[Batch]:
        """`next_batch` as a context: when the block raises, what was not reported is released."""
        batch = self.next_batch(curriculum_id, **arguments)
        try:
            yield batch
        except BaseException:
            try:
                self.release(batch, timeout_seconds=arguments.get("timeout_seconds"))
            except CurriculumError as error:
                # The lease expires by itself; the block's own error is the one to show.
                _log.warning("Lease %s was not released and will expire: %s", batch.lease_id, error)
            raise

    def release(
        self,
        batch_or_lease: Batch | str,
        *,
        curriculum_id: str | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Released:
        """Gives the unreported rest of a lease back. A lease id needs `curriculum_id`."""
        request = release_request(batch_or_lease, curriculum_id, request_id)
        response = self._connection.call(self._stub.ReleaseBatch, request, self._patience(timeout_seconds))
        return Released(response.released, response.revision, response.duplicate)

    # Reports

    @property
    def pending_reports(self) -> int:
        """Reports in the outbox: not yet acknowledged by the service."""
        return len(self._delivery.outbox)

    @overload
    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: GroupedOrFlat,
        rollout_counts: Iterable[int] | None = None,
        statuses: Statuses | None = None,
        lengths: GroupedOrFlat | None = None,
        gradient_norms: GroupedOrFlat | None = None,
        policy_version: int | None = None,
        curriculum_id: str | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
        wait: Literal[True] = True,
    ) -> ReportResult: ...

    @overload
    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: GroupedOrFlat,
        rollout_counts: Iterable[int] | None = None,
        statuses: Statuses | None = None,
        lengths: GroupedOrFlat | None = None,
        gradient_norms: GroupedOrFlat | None = None,
        policy_version: int | None = None,
        curriculum_id: str | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
        wait: Literal[False],
    ) -> None: ...

    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: GroupedOrFlat,
        rollout_counts: Iterable[int] | None = None,
        statuses: Statuses | None = None,
        lengths: GroupedOrFlat | None = None,
        gradient_norms: GroupedOrFlat | None = None,
        policy_version: int | None = None,
        curriculum_id: str | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
        wait: bool = True,
    ) -> ReportResult | None:
        """Reports rewards and gives the directives; the columns are those of `Report`.

        With `wait=False` the report is queued and None returned at once; `flush` says later what was
        refused. With `wait=True` an error after the deadline (`UnavailableError`, `DeadlineError`)
        means "not acknowledged yet": the report **stays in the outbox** and is sent again in the
        background. Do not report it again under another request id. Wrong columns raise
        `InvalidArgumentError` and are not kept; a full outbox raises `OutboxFullError`.
        """
        request = Report(
            batch_or_lease,
            prompt_ids,
            rewards,
            rollout_counts,
            statuses,
            lengths,
            gradient_norms,
            policy_version,
            curriculum_id,
            request_id,
        ).message()
        check_message_size(request, self._max_message_bytes)
        if not wait:
            self._delivery.queue(request)
            return None
        response = self._delivery.deliver(request, self._patience(timeout_seconds))
        return ReportResult.from_message(response, request.request_id)

    def stream_reports(
        self,
        reports: Iterable[Report],
        *,
        max_in_flight: int = 16,
        timeout_seconds: float | None = None,
    ) -> Iterator[ReportResult]:
        """Sends many reports on one stream and yields their results in order.

        Up to `max_in_flight` reports are taken from the iterable before the first result is yielded;
        take 1 when a report depends on the result before it. A report that is refused yields a result
        with `error` and the stream goes on. A broken stream is opened again and what was unanswered
        sent again, until no answer came for `timeout_seconds`. These reports bypass the outbox.
        """
        return stream_reports(self._connection, reports, max_in_flight, self._patience(timeout_seconds))

    def flush(self, timeout_seconds: float | None = None) -> tuple[RefusedReport, ...]:
        """Sends what waits in the outbox and returns when it is empty.

        Gives the queued reports that the service refused since the last flush. Raises
        `UnavailableError` or `DeadlineError` when the outbox is not empty in time.
        """
        self._delivery.flush(self._patience(timeout_seconds))
        return self._delivery.take_refused()

    def _patience_after_flush(self, timeout_seconds: float | None) -> float:
        """Sends pending reports, so that they come before what marks a point in time."""
        deadline = Deadline(self._patience(timeout_seconds))
        if self.pending_reports > 0:
            self._delivery.flush(deadline.remaining_seconds())
        return max(deadline.remaining_seconds(), 0.001)

    # Policy and checkpoints

    def advance_policy(
        self,
        curriculum_id: str,
        policy_version: int,
        *,
        kl: float | None = None,
        start_iteration: bool = False,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Says that the policy moved; `kl` is how far since the last time, if the trainer knows.

        Reports in the outbox are sent first.
        """
        request = request_of(
            pb.AdvancePolicyRequest,
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            policy_version=policy_version,
            kl=kl,
            start_iteration=start_iteration,
        )
        seconds = self._patience_after_flush(timeout_seconds)
        response = self._connection.call(self._stub.AdvancePolicy, request, seconds)
        return Receipt(response.revision, response.duplicate)

    def create_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Keeps the present state under a name. Reports in the outbox are sent first."""
        request = request_of(
            pb.CreateCheckpointRequest,
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        seconds = self._patience_after_flush(timeout_seconds)
        response = self._connection.call(self._stub.CreateCheckpoint, request, seconds)
        return Receipt(response.revision, response.duplicate)

    def restore_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Takes the curriculum back to a kept state, after the outbox was sent. Raises `NotFoundError`."""
        request = request_of(
            pb.RestoreCheckpointRequest,
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        seconds = self._patience_after_flush(timeout_seconds)
        response = self._connection.call(self._stub.RestoreCheckpoint, request, seconds)
        return Receipt(response.revision, response.duplicate)
