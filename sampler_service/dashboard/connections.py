"""Connections of the HTTP port: not more than leave room for trainers, and none that waits for a slow request."""

from __future__ import annotations

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["ARRIVAL_SECONDS", "PromptConnection", "most_connections"]

ARRIVAL_SECONDS = 20.0
"""A whole request, its body included, may take so long to arrive. The largest has 64 KiB."""

_ARRIVING = (h11.IDLE, h11.SEND_BODY)
_MOST_CONNECTIONS = 4096


def most_connections() -> int:
    """A quarter of the files that the process may open, and at most 4,096: the rest is for gRPC and the log.

    Were all taken, asyncio would write some thousand lines a second of what it cannot accept.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, files // 4)


class PromptConnection(H11Protocol):
    """uvicorn waits for the rest of a request for ever, so anybody could hold as many connections as there are.

    The time runs from the connection or from the first byte of a further request on it; in between, uvicorn's
    own limit for idle connections holds. h11 refuses headers beyond 64 KiB.
    """

    arrival_seconds = ARRIVAL_SECONDS
    _arrival: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of several."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has gone."""
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in _ARRIVING:
            self._stop_watching()
        elif self._arrival is None:
            self._arrival = self.loop.call_later(self.arrival_seconds, self._too_slow)

    def _stop_watching(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_slow(self) -> None:
        self._arrival = None
        # The answer to the request before may have let the next one begin since.
        if self.conn.their_state in _ARRIVING:
            self.transport.abort()
