"""The part of the asyncio client that is plain requests and answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._async_connection import AsyncConnection
from trainer_client.client._async_stream import watch_summary
from trainer_client.client._building import request_of
from trainer_client.client._columns import AddedPrompts, PromptStates, Receipt
from trainer_client.client._files import FILE_TIMEOUT_SECONDS, StrPath, import_pieces, written_whole
from trainer_client.client._health import CHECK_METHOD, Health, health_request, parse_health
from trainer_client.client._prompts import PromptColumns, PromptUpload
from trainer_client.client._request_ids import mutation_request_id, new_request_id
from trainer_client.client._requests import prompt_states_request
from trainer_client.client._retry import Deadline
from trainer_client.client._strategy import StrategyLike, strategy_message, warn_of_other_strategy
from trainer_client.client._sync_calls import ADD_PROMPTS_TIMEOUT_SECONDS
from trainer_client.exceptions import AlreadyExistsError, DeadlineError, NotFoundError, UnavailableError


class AsyncCurriculumCalls:
    """Curricula, prompts, kept checkpoints, states and health over one connection."""

    def __init__(self, connection: AsyncConnection, timeout_seconds: float) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds

    def _patience(self, timeout_seconds: float | None) -> float:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds

    # Curricula

    async def create_curriculum(
        self,
        curriculum_id: str,
        strategy: StrategyLike = None,
        *,
        exist_ok: bool = False,
        validate_only: bool = False,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> pb.Curriculum:
        """Creates an empty curriculum.

        With `exist_ok` an existing one is returned as it is, its strategy unchanged, with a warning in
        the log where that is not the one asked for; without, `AlreadyExistsError`. With `validate_only`
        nothing is created: what it would be is returned, or what is wrong with it raised.
        """
        request = request_of(
            pb.CreateCurriculumRequest,
            request_id=mutation_request_id(request_id, validate_only),
            curriculum_id=curriculum_id,
            strategy=strategy_message(strategy),
            validate_only=validate_only,
        )
        try:
            return (
                await self._connection.call(
                    self._connection.stub.CreateCurriculum, request, self._patience(timeout_seconds)
                )
            ).curriculum
        except AlreadyExistsError:
            if not exist_ok:
                raise
        present = await self.get_curriculum(curriculum_id, timeout_seconds=timeout_seconds)
        warn_of_other_strategy(curriculum_id, request.strategy, present.strategy)
        return present

    async def get_curriculum(
        self, curriculum_id: str, *, min_revision: str = "", timeout_seconds: float | None = None
    ) -> pb.Curriculum:
        """Settings and counters. Raises `NotFoundError`."""
        request = request_of(pb.GetCurriculumRequest, curriculum_id=curriculum_id, min_revision=min_revision)
        return (
            await self._connection.call(
                self._connection.stub.GetCurriculum, request, self._patience(timeout_seconds)
            )
        ).curriculum

    async def list_curricula(
        self, *, page_size: int = 0, timeout_seconds: float | None = None
    ) -> AsyncIterator[pb.Curriculum]:
        """All curricula by id, page by page as they are consumed."""
        page_token = ""
        while True:
            response = await self._connection.call(
                self._connection.stub.ListCurricula,
                request_of(pb.ListCurriculaRequest, page_size=page_size, page_token=page_token),
                self._patience(timeout_seconds),
            )
            for curriculum in response.curricula:
                yield curriculum
            page_token = response.next_page_token
            if not page_token:
                return

    async def update_curriculum(
        self,
        curriculum_id: str,
        strategy: StrategyLike,
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> pb.Curriculum:
        """Replaces the strategy; with `etag`, only if nobody else has (`AbortedError`).

        With `validate_only` nothing is changed: the curriculum as it would be is returned, or what
        is wrong with the strategy raised.
        """
        request = request_of(
            pb.UpdateCurriculumRequest,
            request_id=mutation_request_id(request_id, validate_only),
            curriculum_id=curriculum_id,
            strategy=strategy_message(strategy),
            etag=etag,
            validate_only=validate_only,
        )
        return (
            await self._connection.call(
                self._connection.stub.UpdateCurriculum, request, self._patience(timeout_seconds)
            )
        ).curriculum

    async def delete_curriculum(
        self,
        curriculum_id: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> str:
        """Deletes a curriculum with its log, snapshots and checkpoints; gives its last revision."""
        request = request_of(
            pb.DeleteCurriculumRequest,
            request_id=request_id or new_request_id(),
            curriculum_id=curriculum_id,
            etag=etag,
        )
        return (
            await self._connection.call(
                self._connection.stub.DeleteCurriculum, request, self._patience(timeout_seconds)
            )
        ).revision

    async def add_prompts(
        self,
        curriculum_id: str,
        prompt_ids: Iterable[str],
        *,
        clusters: Iterable[str | None] | Mapping[str, Iterable[object]] | None = None,
        reference_pass_rates: Iterable[float | None] | None = None,
        anchor_pass_rates: Iterable[Iterable[float]] | npt.NDArray[np.floating] | None = None,
        embeddings: npt.ArrayLike | None = None,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> AddedPrompts:
        """Adds prompts, any number, in chunks; those already present are left as they are.

        Columns, each one entry per prompt (N): `clusters` labels, or a mapping of columns to join into
        one label, such as type and level; `reference_pass_rates` in [0, 1]
        (None or NaN: not known); `anchor_pass_rates` (N, 2), of a weak and a strong model;
        `embeddings` (N, dimensions) float32. The deadline is 600 s unless given. A stream that breaks
        goes on where it was; with a `request_id` of your own so does the next process, given the same
        prompts in the same order.
        """
        columns = PromptColumns.make(
            prompt_ids, clusters, reference_pass_rates, anchor_pass_rates, embeddings
        )
        upload = PromptUpload(columns, curriculum_id, request_id or new_request_id(), request_id is not None)
        response = await self._connection.retrying(
            lambda seconds: self._upload(upload, Deadline(seconds)),
            max(self._timeout_seconds, ADD_PROMPTS_TIMEOUT_SECONDS)
            if timeout_seconds is None
            else timeout_seconds,
        )
        return AddedPrompts(
            response.added, response.already_present, response.total, response.revision, response.duplicate
        )

    async def _upload(self, upload: PromptUpload, deadline: Deadline) -> pb.AddPromptsResponse:
        stub, metadata, there = self._connection.stub, self._connection.endpoint.metadata, 0
        if upload.begun:
            seconds = deadline.remaining_seconds()
            there = (await stub.AddPrompts(upload.question(), timeout=seconds, metadata=metadata)).chunks
        return await stub.AddPrompts(
            upload.rest(there), timeout=deadline.remaining_seconds(), metadata=metadata
        )

    async def list_checkpoints(
        self, curriculum_id: str, *, timeout_seconds: float | None = None
    ) -> list[pb.Checkpoint]:
        """The kept states, oldest first."""
        request = request_of(pb.ListCheckpointsRequest, curriculum_id=curriculum_id)
        response = await self._connection.call(
            self._connection.stub.ListCheckpoints, request, self._patience(timeout_seconds)
        )
        return list(response.checkpoints)

    async def delete_checkpoint(
        self,
        curriculum_id: str,
        checkpoint_id: str,
        *,
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Receipt:
        """Forgets a kept state. Raises `NotFoundError`."""
        request = request_of(
            pb.DeleteCheckpointRequest,
            curriculum_id=curriculum_id,
            request_id=request_id or new_request_id(),
            checkpoint_id=checkpoint_id,
        )
        response = await self._connection.call(
            self._connection.stub.DeleteCheckpoint, request, self._patience(timeout_seconds)
        )
        return Receipt(response.revision, response.duplicate)

    # Files

    async def export_curriculum(
        self,
        curriculum_id: str,
        path: StrPath,
        *,
        checkpoint_id: str = "",
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> str:
        """Writes the curriculum, or a kept state of it, to a Parquet file; gives the revision exported.

        `path` appears when it is complete. By default waits up to ten minutes.
        Raises `NotFoundError`; `FailedPreconditionError` if the service was installed without pyarrow.
        """
        request = request_of(
            pb.ExportCurriculumRequest,
            curriculum_id=curriculum_id,
            checkpoint_id=checkpoint_id,
            min_revision=min_revision,
        )

        async def attempt(seconds: float) -> str:
            revision = ""
            call = self._connection.stub.ExportCurriculum(
                request, timeout=seconds, metadata=self._connection.endpoint.metadata
            )
            with written_whole(path) as file:
                async for piece in call:
                    file.write(piece.data)
                    revision = piece.revision
            return revision

        return await self._connection.retrying(
            attempt, FILE_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        )

    async def import_curriculum(
        self,
        path: StrPath,
        *,
        curriculum_id: str = "",
        request_id: str | None = None,
        timeout_seconds: float | None = None,
    ) -> pb.Curriculum:
        """Makes a curriculum of an exported file, under the name it had or another.

        By default waits up to ten minutes. Raises `AlreadyExistsError`; `InvalidArgumentError` if the file
        is damaged or no export; `FailedPreconditionError` if a newer release wrote it.
        """
        chosen_id = request_id or new_request_id()

        async def attempt(seconds: float) -> pb.Curriculum:
            answer = await self._connection.stub.ImportCurriculum(
                import_pieces(path, curriculum_id, chosen_id),
                timeout=seconds,
                metadata=self._connection.endpoint.metadata,
            )
            return answer.curriculum

        return await self._connection.retrying(
            attempt, FILE_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        )

    async def replay(
        self,
        curriculum_id: str,
        strategies: Iterable[StrategyLike],
        *,
        most_batches: int = 0,
        timeout_seconds: float | None = None,
    ) -> pb.ReplayCurriculumResponse:
        """Folds the recorded log under other strategies and compares them; changes nothing.

        By default waits up to ten minutes.
        """
        request = request_of(
            pb.ReplayCurriculumRequest,
            curriculum_id=curriculum_id,
            strategies=[strategy_message(strategy) for strategy in strategies],
            most_batches=most_batches,
        )
        seconds = FILE_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        return await self._connection.call(self._connection.stub.ReplayCurriculum, request, seconds)

    # Reading

    async def prompt_states(
        self,
        curriculum_id: str,
        *,
        prompt_ids: Iterable[str] | None = None,
        clusters: Iterable[str] | None = None,
        min_pass_rate: float | None = None,
        max_pass_rate: float | None = None,
        id_contains: str = "",
        order_by: str = "",
        page_size: int = 0,
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[PromptStates]:
        """Pages of prompt states (the service chooses the page size when 0); `timeout_seconds` is per page.

        `prompt_ids` asks for exactly these, in order; an unknown one raises `NotFoundError`. `order_by` names a
        column (pass_rate, pass_rate_stddev, visits, rollouts, last_policy_version), " desc" after it turns it round.
        """
        request = prompt_states_request(
            curriculum_id,
            prompt_ids=prompt_ids,
            clusters=clusters,
            min_pass_rate=min_pass_rate,
            max_pass_rate=max_pass_rate,
            id_contains=id_contains,
            order_by=order_by,
            page_size=page_size,
            min_revision=min_revision,
        )
        if prompt_ids is not None and not request.filter.prompt_ids:
            # On the wire no ids means every prompt, which is not what an empty list asks for.
            return
        while True:
            response = await self._connection.call(
                self._connection.stub.ListPromptStates, request, self._patience(timeout_seconds)
            )
            yield PromptStates.from_message(response)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def prompt_history(
        self,
        curriculum_id: str,
        prompt_id: str,
        *,
        most_visits: int = 0,
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> pb.GetPromptHistoryResponse:
        """One prompt's visits as far back as the log goes: predictions, quotas, rewards.

        The newest `most_visits` of them; 0 leaves it to the service.
        """
        request = request_of(
            pb.GetPromptHistoryRequest,
            curriculum_id=curriculum_id,
            prompt_id=prompt_id,
            most_visits=most_visits,
            min_revision=min_revision,
        )
        return await self._connection.call(
            self._connection.stub.GetPromptHistory, request, self._patience(timeout_seconds)
        )

    async def summary(
        self,
        curriculum_id: str,
        *,
        bins: int = 0,
        min_revision: str = "",
        timeout_seconds: float | None = None,
    ) -> pb.Summary:
        """Aggregates: difficulty histogram, history, calibration, leases (0 bins: the service's default)."""
        request = request_of(
            pb.GetSummaryRequest, curriculum_id=curriculum_id, bins=bins, min_revision=min_revision
        )
        return (
            await self._connection.call(
                self._connection.stub.GetSummary, request, self._patience(timeout_seconds)
            )
        ).summary

    def watch_summary(
        self,
        curriculum_id: str,
        *,
        bins: int = 0,
        interval_seconds: float = 0.0,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[pb.Summary]:
        """Yields a summary now and whenever it has changed, at most every `interval_seconds` (0: 1 s).

        Subscribes again when the service was away for less than `timeout_seconds`. Endless.
        """
        request = request_of(
            pb.WatchSummaryRequest, curriculum_id=curriculum_id, bins=bins, interval_seconds=interval_seconds
        )
        return watch_summary(self._connection, request, self._patience(timeout_seconds))

    async def health(self, service: str = "", *, timeout_seconds: float | None = None) -> Health:
        """What the server says of itself; "" is the server as a whole. Not retried."""
        try:
            return parse_health(
                await self._connection.health(
                    CHECK_METHOD, health_request(service), self._patience(timeout_seconds)
                )
            )
        except NotFoundError:
            return Health.SERVICE_UNKNOWN

    async def wait_until_serving(self, timeout_seconds: float | None = None) -> None:
        """Waits until the service is up and has caught up. Raises `DeadlineError`."""
        end = time.monotonic() + self._patience(timeout_seconds)
        last = "no answer yet"
        while (remaining := end - time.monotonic()) > 0:
            try:
                health = await self.health(timeout_seconds=remaining)
                if health is Health.SERVING:
                    return
                last = f"it says {health.name}"
            except UnavailableError as error:
                last = str(error)
            except DeadlineError:
                # The last try was cut short by our own deadline; what was seen before says more.
                continue
            await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
        raise DeadlineError(f"{self._connection.endpoint.target} is not serving: {last}")
