"""The blocking client."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from curriculum.v1 import curriculum_pb2 as pb

from trainer_client.client._channel import DEFAULT_MAX_MESSAGE_BYTES, Endpoint, Tls
from trainer_client.client._columns import AddedPrompts, Batch, PromptStates, Receipt, Released, ReportResult
from trainer_client.client._connection import Connection
from trainer_client.client._health import CHECK_METHOD, Health, health_request, parse_health
from trainer_client.client._prompts import PromptColumns
from trainer_client.client._request_ids import new_request_id
from trainer_client.client._requests import Report, next_batch_request, prompt_states_request, release_request
from trainer_client.client._rollouts import GroupedOrFlat, Statuses
from trainer_client.client._strategy import StrategyLike, strategy_message
from trainer_client.exceptions import (
    AlreadyExistsError,
    CurriculumError,
    DeadlineError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "CurriculumClient"]

DEFAULT_TIMEOUT_SECONDS = 30.0
# A million prompts with embeddings take minutes; the client's usual patience is for small calls.
ADD_PROMPTS_TIMEOUT_SECONDS = 600.0

_log = logging.getLogger("trainer_client.client")


class CurriculumClient:
    """Blocking client of a curriculum service.

    ```python
    with CurriculumClient("localhost:50051") as client:
        batch = client.next_batch("math", batch_size=64, policy_version=0)
        result = client.report(batch, rewards=roll_out(batch.prompt_ids, batch.quotas))
    ```

    Every method raises a subclass of `trainer_client.exceptions.CurriculumError`. A call is retried
    while the service is away, for at most `timeout_seconds` (its own, else the client's); since its
    `request_id` is fixed before the first try, a retry is never counted twice.

    Threads may share a client. Processes may not: make the client after a fork (a call in a forked
    child raises `ClientClosedError`).
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        tls: bool | Tls | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Opens no connection yet.

        `target` is `host:port` (a name is resolved as `dns:///` and balanced over its addresses),
        `dns:///...` or `unix:path`. `tls`: True, a `Tls`, False for plain text, or None: plain text
        unless a token would cross the network.
        """
        self._timeout_seconds = timeout_seconds
        self._connection = Connection(
            Endpoint.make(target, token=token, tls=tls, max_message_bytes=max_message_bytes)
        )
        self._stub = self._connection.stub

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return (
            f"CurriculumClient(target={self._connection.endpoint.target!r}, "
            f"tls={self._connection.endpoint.credentials is not None}, "
            f"timeout_seconds={self._timeout_seconds}, {state})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel. May be called twice."""
        self._connection.close()

    def _patience(self, timeout_seconds: float | None) -> float:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds

    # Curricula

    def create_curriculum(
        self,
        curriculum_id: str,
        strategy: StrategyLike = None,
        *,
        exist_ok: bool = False,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> pb.Curriculum:
        """Creates an empty curriculum.

        With `exist_ok` an existing one is returned as it is, its strategy unchanged;
        without, `AlreadyExistsError`.
        """
        request = pb.CreateCurriculumRequest(
            request_id=request_id or new_request_id(),
            curriculum_id=curriculum_id,
            strategy=strategy_message(strategy),
        )
        try:
            return self._connection.call(
                self._stub.CreateCurriculum, request, self._patience(timeout_seconds)
            ).curriculum
        except AlreadyExistsError:
            if not exist_ok:
                raise
        return self.get_curriculum(curriculum_id, timeout_seconds=timeout_seconds)

    def get_curriculum(
        self, curriculum_id: str, *, min_revision: str = "", timeout_seconds: float | None = None
    ) -> pb.Curriculum:
        """Settings and counters. Raises `NotFoundError`."""
        request = pb.GetCurriculumRequest(curriculum_id=curriculum_id, min_revision=min_revision)
        return self._connection.call(
            self._stub.GetCurriculum, request, self._patience(timeout_seconds)
        ).curriculum

    def list_curricula(
        self, *, page_size: int = 0, timeout_seconds: float | None = None
    ) -> Iterator[pb.Curriculum]:
        """All curricula by id, page by page as they are consumed."""
        page_token = ""
        while True:
            response = self._connection.call(
                self._stub.ListCurricula,
                pb.ListCurriculaRequest(page_size=page_size, page_token=page_token),
                self._patience(timeout_seconds),
            )
            yield from response.curricula
            page_token = response.next_page_token
            if not page_token:
                return

    def update_curriculum(
        self,
        curriculum_id: str,
        strategy: StrategyLike,
        *,
        etag: str = "",
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> pb.Curriculum:
        """Replaces the strategy; with `etag`, only if nobody else has (`AbortedError`)."""
        request = pb.UpdateCurriculumRequest(
            request_id=request_id or new_request_id(),
            curriculum_id=curriculum_id,
            strategy=strategy_message(strategy),
            etag=etag,
        )
        return self._connection.call(
            self._stub.UpdateCurriculum, request, self._patience(timeout_seconds)
        ).curriculum

    def delete_curriculum(
        self,
        curriculum_id: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> str:
        """Deletes a curriculum with its log, snapshots and checkpoints; gives its last revision."""
        request = pb.DeleteCurriculumRequest(
            request_id=request_id or new_request_id(), curriculum_id=curriculum_id, etag=etag
        )
        return self._connection.call(
            self._stub.DeleteCurriculum, request, self._patience(timeout_seconds)
        ).revision

    def add_prompts(
        self,
        curriculum_id: str,
        prompt_ids: Iterable[str],
        *,
        clusters: Iterable[str | None] | None = None,
        reference_pass_rates: Iterable[float | None] | None = None,
        anchor_pass_rates: Iterable[Iterable[float]] | npt.NDArray[np.floating] | None = None,
        embeddings: npt.ArrayLike | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> AddedPrompts:
        """Adds prompts, any number, in chunks; those already present are left as they are.

        Columns, each one entry per prompt (N): `clusters` labels; `reference_pass_rates` in [0, 1]
        (None or NaN: not known); `anchor_pass_rates` (N, 2), of a weak and a strong model;
        `embeddings` (N, dimensions) float32. The deadline is 600 s unless given.
        """
        columns = PromptColumns.make(
            prompt_ids, clusters, reference_pass_rates, anchor_pass_rates, embeddings
        )
        fixed_id = request_id or new_request_id()
        response = self._connection.retrying(
            lambda seconds: self._stub.AddPrompts(
                columns.chunks(curriculum_id, fixed_id),
                timeout=seconds,
                metadata=self._connection.endpoint.metadata,
            ),
            max(self._timeout_seconds, ADD_PROMPTS_TIMEOUT_SECONDS)
            if timeout_seconds is None
            else timeout_seconds,
        )
        return AddedPrompts(
            response.added, response.already_present, response.total, response.revision, response.duplicate
        )

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
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Batch:
        """Draws and leases the next batch.

        `rollout_budget` is for the whole batch, further rounds included (0: the strategy's default).
        With `run_id` and `step` the request id is derived from them: every rank that asks with the
        same arguments gets the same batch, and so does a rank that was restarted in that step.
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
        )
        response = self._connection.call(self._stub.NextBatch, request, self._patience(timeout_seconds))
        return Batch.from_message(request, response)

    @contextmanager
    def lease(
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
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Iterator[Batch]:
        """`next_batch` as a context: when the block raises, what was not reported is released."""
        batch = self.next_batch(
            curriculum_id,
            batch_size=batch_size,
            rollout_budget=rollout_budget,
            policy_version=policy_version,
            equal_quotas=equal_quotas,
            run_id=run_id,
            step=step,
            trainer_id=trainer_id,
            min_revision=min_revision,
            request_id=request_id,
            timeout_seconds=timeout_seconds,
        )
        try:
            yield batch
        except BaseException:
            try:
                self.release(batch, timeout_seconds=timeout_seconds)
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
    ) -> ReportResult:
        """Reports rewards and gives the directives; the columns are those of `Report`."""
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
        response = self._connection.call(self._stub.ReportRollouts, request, self._patience(timeout_seconds))
        return ReportResult.from_message(response, request.request_id)

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
        """Says that the policy moved; `kl` is how far since the last time, if the trainer knows."""
        request = pb.AdvancePolicyRequest(
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            policy_version=policy_version,
            kl=kl,
            start_iteration=start_iteration,
        )
        response = self._connection.call(self._stub.AdvancePolicy, request, self._patience(timeout_seconds))
        return Receipt(response.revision, response.duplicate)

    def create_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Keeps the present state under a name."""
        request = pb.CreateCheckpointRequest(
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        response = self._connection.call(
            self._stub.CreateCheckpoint, request, self._patience(timeout_seconds)
        )
        return Receipt(response.revision, response.duplicate)

    def restore_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Takes the curriculum back to a kept state. Raises `NotFoundError`."""
        request = pb.RestoreCheckpointRequest(
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        response = self._connection.call(
            self._stub.RestoreCheckpoint, request, self._patience(timeout_seconds)
        )
        return Receipt(response.revision, response.duplicate)

    def list_checkpoints(
        self, curriculum_id: str, *, timeout_seconds: float | None = None
    ) -> list[pb.Checkpoint]:
        """The kept states, oldest first."""
        request = pb.ListCheckpointsRequest(curriculum_id=curriculum_id)
        response = self._connection.call(self._stub.ListCheckpoints, request, self._patience(timeout_seconds))
        return list(response.checkpoints)

    def delete_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Forgets a kept state. Raises `NotFoundError`."""
        request = pb.DeleteCheckpointRequest(
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        response = self._connection.call(
            self._stub.DeleteCheckpoint, request, self._patience(timeout_seconds)
        )
        return Receipt(response.revision, response.duplicate)

    # Reading

    def prompt_states(
        self,
        curriculum_id: str,
        *,
        prompt_ids: Iterable[str] | None = None,
        clusters: Iterable[str] | None = None,
        min_pass_rate: float | None = None,
        max_pass_rate: float | None = None,
        id_contains: str = "",
        page_size: int = 0,
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> Iterator[PromptStates]:
        """Pages of prompt states (the service chooses the page size when 0); `timeout_seconds` is per page.

        `prompt_ids` asks for exactly these, in order; an unknown one raises `NotFoundError`.
        """
        request = prompt_states_request(
            curriculum_id,
            prompt_ids=prompt_ids,
            clusters=clusters,
            min_pass_rate=min_pass_rate,
            max_pass_rate=max_pass_rate,
            id_contains=id_contains,
            page_size=page_size,
            min_revision=min_revision,
        )
        while True:
            response = self._connection.call(
                self._stub.ListPromptStates, request, self._patience(timeout_seconds)
            )
            yield PromptStates.from_message(response)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def summary(
        self,
        curriculum_id: str,
        *,
        bins: int = 0,
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> pb.Summary:
        """Aggregates: difficulty histogram, history, calibration, leases (0 bins: the service's default)."""
        request = pb.GetSummaryRequest(curriculum_id=curriculum_id, bins=bins, min_revision=min_revision)
        return self._connection.call(self._stub.GetSummary, request, self._patience(timeout_seconds)).summary

    def health(self, service: str = "", *, timeout_seconds: float | None = None) -> Health:
        """What the server says of itself; "" is the server as a whole. Not retried."""
        try:
            return parse_health(
                self._connection.health(
                    CHECK_METHOD, health_request(service), self._patience(timeout_seconds)
                )
            )
        except NotFoundError:
            return Health.SERVICE_UNKNOWN

    def wait_until_serving(self, timeout_seconds: float | None = None) -> None:
        """Blocks until the service is up and has caught up. Raises `DeadlineError`."""
        end = time.monotonic() + self._patience(timeout_seconds)
        last = "no answer yet"
        while (remaining := end - time.monotonic()) > 0:
            try:
                health = self.health(timeout_seconds=remaining)
                if health is Health.SERVING:
                    return
                last = f"it says {health.name}"
            except UnimplementedError:
                raise
            except (UnavailableError, DeadlineError) as error:
                last = str(error)
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))
        raise DeadlineError(f"{self._connection.endpoint.target} is not serving: {last}")
