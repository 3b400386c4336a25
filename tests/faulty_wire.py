"""A small proxy between one replica and its log server, which loses, tears and delays what passes through."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from pathlib import Path
from urllib.parse import quote

_CHUNK_BYTES = 1 << 18


class Fault(Enum):
    """What happens to one chunk on its way. All but the delays end in a cut connection."""

    LOSE_REQUEST = "the server never sees the request"
    TEAR_REQUEST = "the server sees half of the request"
    LOSE_REPLY = "the server has carried the request out, and its reply is lost"
    TEAR_REPLY = "half of the reply arrives"
    LATE_REPLY = "the reply arrives after the caller has given up"
    SLOW_REPLY = "the reply takes its time"

    @property
    def hits_requests(self) -> bool:
        return self in (Fault.LOSE_REQUEST, Fault.TEAR_REQUEST)


class FaultyWire:
    """Listens on a unix socket and passes everything on to the server's, until told otherwise.

    Args:
        late_seconds: longer than the replica waits for an answer.
    """

    def __init__(self, path: Path, server: Path, late_seconds: float, slow_seconds: float = 0.01) -> None:
        self._path = path
        self._server = server
        self._delays = {Fault.LATE_REPLY: late_seconds, Fault.SLOW_REPLY: slow_seconds}
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._fault: Fault | None = None
        self._chunks_before = 0
        self.faults_met = 0

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._path))}"

    async def open(self) -> FaultyWire:
        self._listener = await asyncio.start_unix_server(self._accept, self._path)
        return self

    def arm(self, fault: Fault, chunks_before: int) -> None:
        """Lets so many chunks of the fault's direction pass, and meets the next one."""
        self._fault, self._chunks_before = fault, chunks_before

    def disarm(self) -> None:
        self._fault = None

    async def cut(self) -> None:
        """Every connection ends; new ones are taken."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def close(self) -> None:
        """Nothing passes any more, as if the replica's host were gone."""
        if self._listener is not None:
            self._listener.close()
        self._path.unlink(missing_ok=True)
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # Cut: for the peers that is an end like any other.
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
        except OSError:
            return
        pumps = [
            asyncio.create_task(self._pump(reader, to_server, requests=True)),
            asyncio.create_task(self._pump(from_server, writer, requests=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            to_server.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(_CHUNK_BYTES):
                fault = self._meet(requests)
                if fault in (Fault.LOSE_REQUEST, Fault.LOSE_REPLY):
                    return
                if fault in (Fault.TEAR_REQUEST, Fault.TEAR_REPLY):
                    sink.write(chunk[: len(chunk) // 2])
                    await sink.drain()
                    return
                if fault is not None:
                    await asyncio.sleep(self._delays[fault])
                sink.write(chunk)
                await sink.drain()

    def _meet(self, requests: bool) -> Fault | None:
        if self._fault is None or self._fault.hits_requests is not requests:
            return None
        if self._chunks_before > 0:
            self._chunks_before -= 1
            return None
        fault, self._fault = self._fault, None
        self.faults_met += 1
        return fault
