"""Runs the dashboard inside a process that has an event loop and signal handlers of its own."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process that embeds it has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class DashboardServer:
    """An HTTP server in the running event loop; `port` is the one that was bound."""

    def __init__(self, app: FastAPI, server: uvicorn.Server, listener: socket.socket) -> None:
        self._app = app
        self._server = server
        self._task = asyncio.create_task(server.serve([listener]), name="dashboard")
        self.host, self.port = listener.getsockname()[:2]

    @classmethod
    async def start(
        cls, app: FastAPI, host: str = "127.0.0.1", port: int = 0, *, share_port: bool = False
    ) -> "DashboardServer":
        """Binds and serves; port 0 picks one. `share_port`: beside other processes that do too.

        Raises OSError when the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        started = cls(app, _QuietServer(config), listener)
        while not started._server.started and not started._task.done():
            await asyncio.sleep(0.01)
        if started._task.done():
            listener.close()
            await started._task
        return started

    @property
    def url(self) -> str:
        """The page's address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    async def stop(self) -> None:
        """Ends the live streams, lets running requests finish (at most 5 s), and closes the port."""
        self._app.state.feeds.close()
        self._server.should_exit = True
        await self._task
