"""Curricula as files: what export sends, and how an imported file becomes the beginning of a log."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.checkpoints import require_checkpoint
from sampler_service.curriculum.errors import (
    CurriculumError,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
)
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import IMPORT_REVISION, LogClient, LogExistsError
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.outlining import outline
from sampler_service.replica.pool_figures import look_at_pool
from sampler_service.replica.reading import summary
from sampler_service.replica.requests import require_id, require_request_id
from sampler_service.replica.restoring import load_state

__all__ = ["ReceivedExport", "export_chunks"]

_BINS: Final = 10


def _archive() -> ModuleType:
    """The part of the service that needs pyarrow.

    Raises:
        FailedPrecondition: it is not installed.
    """
    try:
        from sampler_service import archive
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise FailedPrecondition(
            "PARQUET_MISSING",
            "This service was installed without pyarrow, which export and import need:"
            " pip install 'curriculum-sampler[parquet]' and start it again.",
        ) from None
    return archive


async def export_chunks(
    replica: CurriculumReplica, checkpoint_id: str
) -> AsyncIterator[pb.ExportCurriculumResponse]:
    """The file, piece by piece; the next one is made when the last was taken.

    Raises:
        NotFound: no such checkpoint.
        FailedPrecondition: pyarrow is missing.
    """
    archive = _archive()
    if checkpoint_id:
        kept = require_checkpoint(replica.state, checkpoint_id)["revision"]
        manifest, state = await load_state(replica.store, kept)
        revision = manifest.revision
    else:
        copied = await replica.copy_state()
        revision = copied.revision
        state = await asyncio.to_thread(CurriculumState.restore, copied.arrays, copied.away)
        del copied
    chunks = archive.archive_chunks(state, _reader_of_embeddings(replica, state))
    while (data := await asyncio.to_thread(next, chunks, None)) is not None:
        yield pb.ExportCurriculumResponse(data=data, revision=revision)


def _reader_of_embeddings(
    replica: CurriculumReplica, state: CurriculumState
) -> Callable[[int, int], NDArray[np.float16]]:
    """Reads the embeddings of a range of rows, wherever they are; called in a thread, rows ascending."""
    loop = asyncio.get_running_loop()
    embeddings = state.table.embeddings
    last: dict[int, NDArray[Any]] = {}

    def block_of(number: int) -> NDArray[Any]:
        if number not in last:
            assert embeddings is not None
            last.clear()
            fetched = asyncio.run_coroutine_threadsafe(replica.store.fetch([embeddings.away[number]]), loop)
            last[number] = fetched.result()[0]
        return last[number]

    def read(start: int, stop: int) -> NDArray[np.float16]:
        assert embeddings is not None
        parts = []
        while start < min(stop, embeddings.away_rows):
            number, offset = divmod(start, embeddings.block_rows)
            part = block_of(number)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        if start < stop:
            parts.append(embeddings.held(start, stop))
        return np.concatenate(parts)

    return read


class ReceivedExport:
    """A file that a client sends: kept on disk, checked, then made the beginning of a log."""

    def __init__(self, file: IO[bytes], curriculum_id: str, request_id: str) -> None:
        archive = _archive()
        self._path = Path(file.name)
        try:
            manifest = archive.read_manifest(self._path)
        except archive.ArchiveError as error:
            raise _refusal(error.fault, str(error)) from None
        self.curriculum_id = curriculum_id or manifest.curriculum_id
        require_id(self.curriculum_id, "curriculum_id")
        content = f"ImportCurriculum {self.curriculum_id} {manifest.to_json()}"
        self.event = log_pb2.Event(
            request_id=request_id,
            fingerprint=hashlib.blake2b(content.encode(), digest_size=16).digest(),
            curriculum_imported=log_pb2.CurriculumImported(
                curriculum_id=self.curriculum_id, revision=IMPORT_REVISION
            ),
        )

    @classmethod
    async def receive(
        cls, requests: AsyncIterator[pb.ImportCurriculumRequest], file: IO[bytes], most_bytes: int
    ) -> ReceivedExport:
        """Writes the stream to `file`, and looks at what it is.

        Raises:
            InvalidArgument: not an export, or a damaged one.
            FailedPrecondition: an export of a newer release; pyarrow is missing.
            Exhausted: too large.
        """
        _archive()
        names: tuple[str, str] | None = None
        size = 0
        async for request in requests:
            if names is None:
                require_request_id(request.request_id)
                names = request.curriculum_id, request.request_id
            size += len(request.data)
            if size > most_bytes:
                raise Exhausted(
                    "IMPORT_TOO_LARGE",
                    f"The file is larger than {most_bytes} bytes. Raise replica.max_import_bytes.",
                    "data",
                )
            try:
                await asyncio.to_thread(file.write, request.data)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise Exhausted(
                    "IMPORT_NO_SPACE",
                    f"No space is left in {tempfile.gettempdir()}, where an import is kept until it is"
                    " checked. Set TMPDIR to a larger place.",
                ) from None
        if names is None:
            raise InvalidArgument("MISSING_FIELD", "The stream ended without a piece.", "data")
        await asyncio.to_thread(file.flush)
        return await asyncio.to_thread(cls, file, *names)

    async def begin_log(self, client: LogClient, most_bytes: int) -> None:
        """Creates the curriculum, in one step: wholly or not at all.

        Args:
            most_bytes: that it may unpack to.

        Raises:
            InvalidArgument: the file is damaged.
            Exhausted: it unpacks to more than that.
            FailedPrecondition: its strategy needs a newer release.
            LogExistsError: there is a curriculum of this name.
        """
        log = client.log(self.curriculum_id)
        if await log.exists():
            raise LogExistsError(f"curriculum {self.curriculum_id!r} exists already")
        arrays = await asyncio.to_thread(self._read, most_bytes)
        staged = client.stage(self.curriculum_id)
        try:
            await staged.save(arrays)
            await log.create(self.event.SerializeToString(), staged)
        except BaseException:
            await staged.discard()
            raise

    def _read(self, most_bytes: int) -> dict[str, Any]:
        archive = _archive()
        try:
            manifest, arrays = archive.read_archive(self._path, most_bytes)
            state = CurriculumState.restore(arrays)
            # What cannot be shown would be in the way of every list and scrape.
            summary(state, _BINS, look_at_pool(state, _BINS))
            outline(state)
        except archive.ArchiveError as error:
            raise _refusal(error.fault, str(error)) from None
        except CurriculumError as error:
            raise _refusal("newer", f"The exported strategy is not known here: {error.message}") from None
        except Exception as error:
            # Whoever made the file chose every number in it, so anything may fail.
            raise _refusal("damaged", f"The file does not hold a whole curriculum: {error!r}.") from None
        if state.table.size != manifest.prompts:
            raise _refusal("damaged", "The file does not hold as many prompts as it says.")
        return state.export()


def _refusal(fault: str, message: str) -> CurriculumError:
    if fault == "large":
        return Exhausted("IMPORT_TOO_LARGE", f"{message} Raise replica.max_memory_bytes.", "data")
    if fault == "newer":
        return FailedPrecondition("EXPORT_FORMAT", message, "data")
    reason = "NOT_AN_EXPORT" if fault == "foreign" else "EXPORT_DAMAGED"
    return InvalidArgument(reason, message, "data")
