"""Server-Sent Events of summaries: one read per curriculum and interval, however many pages watch it."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import Principal, current_principal
from sampler_service.dashboard.encoding import dump_json, encode_message
from sampler_service.dashboard.errors import NOT_FOUND, body_of, error_body
from sampler_service.dashboard.reader import CurriculumReader, ReadError

logger = logging.getLogger(__name__)

RESOURCE_EXHAUSTED = 8


def summary_frame(summary: pb.Summary) -> bytes:
    """One `summary` event; its id is the revision."""
    return b"event: summary\nid: %s\ndata: %s\n\n" % (
        summary.revision.encode(),
        dump_json(encode_message(summary)),
    )


def problem_frame(body: dict[str, object]) -> bytes:
    """One `problem` event: the read failed, what was sent before is the last that is known."""
    return b"event: problem\ndata: %s\n\n" % dump_json(body)


class _Topic:
    """The latest frame of one (curriculum, bins); slow watchers skip to it instead of queueing."""

    def __init__(self, first: bytes, mark: tuple[str, bool]) -> None:
        self.frame = first
        self.mark: tuple[str, bool] | None = mark
        self.version = 1
        self.ended = False
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def publish(self, frame: bytes) -> None:
        self.frame = frame
        self.version += 1
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_past(self, version: int, timeout_seconds: float) -> None:
        changed = self._changed
        if self.version == version and not self.ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), timeout_seconds)


class SummaryFeeds:
    """Hands out live streams of summaries and ends them all when the server stops."""

    def __init__(
        self,
        reader: CurriculumReader,
        *,
        interval_seconds: float = 1.0,
        heartbeat_seconds: float = 15.0,
        max_streams: int = 256,
        max_streams_of_a_token: int = 64,
        is_current: Callable[[Principal], bool] = lambda _: True,
    ) -> None:
        self._reader = reader
        self._interval_seconds = interval_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._max_streams = max_streams
        self._max_streams_of_a_token = max_streams_of_a_token
        self._streams_of: Counter[str] = Counter()
        self._is_current = is_current
        self._topics: dict[tuple[str, int], _Topic] = {}
        self._closed = False

    @property
    def stream_count(self) -> int:
        """Streams that are open now."""
        return sum(topic.watchers for topic in self._topics.values())

    async def open(self, curriculum_id: str, bins: int) -> AsyncIterator[bytes]:
        """Frames of one curriculum, the present state first.

        Raises `ReadError` when the first read fails or too many streams are open, so that the caller can
        still answer with a status instead of an empty stream.
        """
        if self.stream_count >= self._max_streams:
            message = (
                f"{self._max_streams} streams are open, the most that are served; poll /summary instead."
            )
            raise ReadError(RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message)
        principal = current_principal.get()
        if principal.credential and self._streams_of[principal.name] >= self._max_streams_of_a_token:
            message = (
                f"{self._max_streams_of_a_token} streams of {principal.name!r} are open, the most that one token "
                "gets; poll /summary instead."
            )
            raise ReadError(RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message)
        first = await self._reader.summary(curriculum_id, bins)
        return self._watch((curriculum_id, bins), first, principal)

    def close(self) -> None:
        """Ends every stream; a browser then reconnects, to this server's successor."""
        self._closed = True
        for topic in self._topics.values():
            if topic.task is not None:
                topic.task.cancel()
            topic.ended = True
            topic.wake()

    async def _watch(
        self, key: tuple[str, int], first: pb.Summary, principal: Principal
    ) -> AsyncIterator[bytes]:
        if self._closed:
            return
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(summary_frame(first), (first.revision, first.stale))
            topic.task = asyncio.create_task(self._poll(key, topic), name=f"summary feed {key[0]}")
        topic.watchers += 1
        self._streams_of[principal.name] += 1
        try:
            seen = topic.version  # Before the yield: news may come while this frame is being sent.
            yield b"retry: 2000\n\n" + topic.frame
            while not topic.ended:
                await topic.wait_past(seen, self._heartbeat_seconds)
                if not self._is_current(principal):
                    return  # The page reconnects, is refused, and asks for a token.
                if topic.version != seen:
                    seen = topic.version
                    yield topic.frame
                elif not topic.ended:
                    yield b": heartbeat\n\n"
        finally:
            topic.watchers -= 1
            self._streams_of[principal.name] -= 1
            if topic.watchers == 0 and self._topics.get(key) is topic:
                del self._topics[key]
                if topic.task is not None:
                    topic.task.cancel()

    async def _poll(self, key: tuple[str, int], topic: _Topic) -> None:
        while not topic.ended:
            await asyncio.sleep(self._interval_seconds)
            try:
                summary = await self._reader.summary(*key)
            except ReadError as error:
                self._publish_problem(topic, body_of(error))
                if error.code == NOT_FOUND:
                    topic.ended = True
                    topic.wake()
            except Exception:
                # This task has no caller to raise to: the log and the watchers are told instead.
                logger.exception("reading the summary of %s failed", key[0])
                message = "The service failed to answer. Its log has the details."
                self._publish_problem(topic, error_body("INTERNAL", "INTERNAL", message))
            else:
                mark = (summary.revision, summary.stale)
                if mark != topic.mark:
                    topic.mark = mark
                    topic.publish(summary_frame(summary))

    @staticmethod
    def _publish_problem(topic: _Topic, body: dict[str, object]) -> None:
        frame = problem_frame(body)
        topic.mark = None  # The next good read is news whatever its revision.
        if frame != topic.frame:
            topic.publish(frame)
