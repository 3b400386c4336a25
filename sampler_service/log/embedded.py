"""A Valkey server of our own, on a unix socket in a data directory: durability without an installation."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from sampler_service.log.data_dir import DataDir
from sampler_service.log.errors import EmbeddedServerError
from sampler_service.log.server_binary import find_server_binary

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.005
_PR_SET_PDEATHSIG = 1
_NEWER_DATA = (
    "Can't handle RDB format version",
    "Wrong signature trying to load DB",
    "Unknown RDB format version",
)


class EmbeddedServer:
    """Owns a data directory and the server that runs in it.

    The server dies with this process (on Linux even if this process is killed). `start` must run in the
    thread that stays: the kernel ties the server's life to it.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        appendfsync: Literal["everysec", "always", "no"] = "everysec",
        binary: Path | None = None,
        start_timeout_seconds: float = 300.0,
        stop_timeout_seconds: float = 20.0,
    ) -> None:
        self._dir = DataDir(data_dir)
        self._appendfsync = appendfsync
        self._binary = binary
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return self._dir.path

    @property
    def url(self) -> str:
        """For `RedisSettings`."""
        return f"unix://{quote(str(self._dir.socket_path))}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Own the directory, start the server and return when it answers.

        Raises `DataDirLockedError`, `EmbeddedServerError`. Loading a large log may take its time, up to
        `start_timeout_seconds`.
        """
        binary = self._binary or find_server_binary()
        self._dir.acquire()
        try:
            await self._shut_orphan_down()
            await self._launch(binary)
        except BaseException:
            await self._terminate()
            self._dir.release()
            raise

    async def stop(self) -> None:
        """Stop the server (its log is on disk then) and give the directory free."""
        await self._terminate()
        with contextlib.suppress(FileNotFoundError):
            self._dir.socket_path.unlink()
        self._dir.release()

    async def restart_if_dead(self) -> bool:
        """Start the server again if it died while we own the directory; whether it had."""
        if self.running or self._process is None:
            return False
        logger.error(
            "the embedded server ended by itself (exit status %s); starting it again",
            self._process.returncode,
        )
        await self._launch(self._binary or find_server_binary())
        return True

    async def wait(self) -> int:
        """Wait for the server's end; its exit status."""
        if self._process is None:
            raise EmbeddedServerError("the embedded server was not started")
        return await self._process.wait()

    async def _launch(self, binary: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._dir.socket_path.unlink()
        said_before = self._dir.log_file.stat().st_size if self._dir.log_file.exists() else 0
        with self._dir.log_file.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    binary,
                    *self._arguments(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._dir.path,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
            except OSError as error:
                raise EmbeddedServerError(f"{binary} cannot be started: {error}") from error
        await self._until_ready(said_before)

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._dir.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._dir.path),
            "daemonize": "no",
            "logfile": "",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    async def _until_ready(self, said_before: int) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        while time.monotonic() < deadline:
            if not self.running:
                raise EmbeddedServerError(self._why_it_ended(said_before))
            if self._dir.socket_path.exists() and await self._answers():
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise EmbeddedServerError(
            f"the embedded server did not answer within {self._start_timeout_seconds:g} s: "
            f"see {self._dir.log_file}"
        )

    async def _answers(self) -> bool:
        async with self._connection() as redis:
            try:
                await redis.ping()
            except BusyLoadingError:
                await asyncio.sleep(0.05)
                return False
            except (RedisError, OSError):
                return False
        return True

    async def _shut_orphan_down(self) -> None:
        """A server that outlived its service (we own the directory, so its service is gone)."""
        if not self._dir.socket_path.exists():
            return
        async with self._connection() as redis:
            try:
                pid = int((await redis.info("server"))["process_id"])
            except BusyLoadingError:
                raise EmbeddedServerError(
                    f"a server left over from an earlier run is still loading {self._dir.path}: "
                    "try again when it is done"
                ) from None
            except (RedisError, OSError):
                return
        logger.warning("stopping server %d, left over on %s", pid, self._dir.path)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout_seconds
        while _lives(pid):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"server {pid}, left over on {self._dir.path}, does not stop: end it by hand"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _terminate(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._stop_timeout_seconds)
        except TimeoutError:
            logger.warning("the embedded server did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _connection(self) -> Redis:
        return Redis(
            unix_socket_path=str(self._dir.socket_path),
            socket_timeout=5,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def _why_it_ended(self, said_before: int) -> str:
        with self._dir.log_file.open("rb") as file:
            file.seek(said_before)
            said = file.read().decode(errors="replace").strip()
        status = self._process.returncode if self._process else None
        if any(sign in said for sign in _NEWER_DATA) or (
            # Redis takes a base file with Valkey's signature for damaged text.
            "Bad file format" in said and ".base.rdb" in said and self._dir.has_valkey_data()
        ):
            return (
                f"the log in {self._dir.path} was written by a newer server, or one of another kind, than "
                f"{self._binary or find_server_binary()}: install that again, or choose another --data-dir"
            )
        last = "\n".join(said.splitlines()[-5:])
        return f"the embedded server ended with status {status}; see {self._dir.log_file}:\n{last}"


def _die_with_parent() -> Callable[[], None] | None:
    """For the child between fork and exec: ask the kernel for SIGTERM when our thread ends."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: the child must not import or allocate much.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
