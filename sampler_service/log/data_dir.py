"""The embedded server's data directory: one owner at a time, a socket path short enough."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from sampler_service.log.errors import DataDirLockedError, EmbeddedServerError

_LONGEST_SOCKET_PATH_BYTES = 100
"""The kernel allows 107 on Linux, 103 on macOS."""


class DataDir:
    """A directory that one service owns while it runs; the kernel gives it free if the service dies."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()
        self._lock: int | None = None

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self.path / "server.log"

    @property
    def socket_path(self) -> Path:
        """The server's unix socket: in the directory, or under the temporary one if the path is too long."""
        inside = self.path / "server.sock"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_PATH_BYTES:
            return inside
        name = hashlib.blake2b(os.fsencode(self.path), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"curriculum-{os.getuid()}-{name}" / "server.sock"

    def has_valkey_data(self) -> bool:
        """Whether a Valkey of version 9 or newer wrote the log: Redis cannot read its files."""
        for base in self.path.glob("appendonlydir/*.base.rdb"):
            with base.open("rb") as file:
                if file.read(6) == b"VALKEY":
                    return True
        return False

    def acquire(self) -> None:
        """Make the directory and own it, or raise `DataDirLockedError` / `EmbeddedServerError`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in {self.path, self.socket_path.parent}:
                if directory.stat().st_uid != os.getuid():
                    raise EmbeddedServerError(
                        f"{directory} belongs to another user: choose another --data-dir"
                    )
                directory.chmod(0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"data directory {self.path} cannot be used ({error.strerror or error}): "
                "choose another --data-dir"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _read_pid(descriptor)
            os.close(descriptor)
            raise DataDirLockedError(
                f"data directory {self.path} is in use by another service"
                + (f" (process {owner})" if owner else "")
                + ": stop it, choose another --data-dir, or let both use one server with --redis-url",
                owner,
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def release(self) -> None:
        """Let others have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
