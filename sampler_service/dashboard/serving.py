"""Runs the dashboard inside a process that has an event loop and signal handlers of its own."""

import asyncio
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from sampler_service.access import TlsSettings
from sampler_service.dashboard.connections import PromptConnection
from sampler_service.dashboard.settings import HttpSettings

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process that embeds it has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class DashboardServer:
    """An HTTP server in the running event loop; `port` is the one that was bound."""

    def __init__(
        self, app: FastAPI, server: uvicorn.Server, listener: socket.socket, tls: TlsSettings
    ) -> None:
        self._app = app
        self._tls = tls
        self._renewal = (
            asyncio.create_task(self._renew(server.config), name="certificate renewal")
            if tls.enabled
            else None
        )
        self._server = server
        self._task = asyncio.create_task(server.serve([listener]), name="dashboard")
        self.host, self.port = listener.getsockname()[:2]

    @classmethod
    async def start(
        cls,
        app: FastAPI,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        share_port: bool = False,
        settings: HttpSettings | None = None,
        tls: TlsSettings | None = None,
    ) -> "DashboardServer":
        """Binds and serves; port 0 picks one. `share_port`: beside other processes that do too.

        Raises:
            OSError: the address cannot be bound, or a file of TLS cannot be used.
        """
        tls = tls or TlsSettings()
        if tls.enabled:
            tls.read()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named, because asyncio turns Nagle's algorithm off only where it can see that this is TCP: else every
        # answer waits 40 ms for an acknowledgement that the client delays.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
            # By name: uvicorn takes another parser where it finds one, and that one reads headers without end.
            http=PromptConnection,
            ws="none",
            # So many connections are accepted in one go, and so often a refusal to is logged.
            backlog=128,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            proxy_headers=True,
            forwarded_allow_ips=list((settings or HttpSettings()).trusted_proxies),
            ssl_certfile=tls.cert_file,
            ssl_keyfile=tls.key_file,
        )
        config.load()
        started = cls(app, _QuietServer(config), listener, tls)
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
        return f"{'https' if self._tls.enabled else 'http'}://{host}:{self.port}/"

    async def stop(self) -> None:
        """Ends the live streams, lets running requests finish (at most 5 s), and closes the port."""
        if self._renewal is not None:
            self._renewal.cancel()
        self._app.state.feeds.close()
        self._server.should_exit = True
        await self._task

    async def _renew(self, config: uvicorn.Config) -> None:
        """New connections get the certificate that is in the files now."""
        stamp = self._tls.stamp()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if self._tls.stamp() == stamp:
                    continue
                self._tls.read()
            except (OSError, ssl.SSLError) as error:
                # Half replaced, perhaps: the former certificate serves until both files fit.
                _log.error("the renewed certificate cannot be used yet", why=str(error))
                continue
            assert config.ssl is not None
            assert self._tls.cert_file is not None
            config.ssl.load_cert_chain(self._tls.cert_file, self._tls.key_file)
            stamp = self._tls.stamp()
