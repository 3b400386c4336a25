"""An append-only file of reports that wait for the service, readable after a crash at any byte.

    file   = "CURROBX1" record*
    record = length u32 | crc32 u32 | kind u8 | sequence u64 | payload     (little-endian)

`length` counts kind, sequence and payload; the checksum covers the same bytes. A report is
on the disk (fsync) before it is sent. An acknowledgement is a record without payload and is
not synced: losing one means a report is sent twice, which its request id makes harmless.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from trainer_client.exceptions import OutboxFileError

_MAGIC = b"CURROBX1"
_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<BQ")
_REPORT = 1
_ACKNOWLEDGED = 2
# Below this much dead weight a rewrite is not worth its two syncs.
_COMPACTION_BYTES = 1024 * 1024

_log = logging.getLogger("trainer_client.client")


class OutboxFile:
    """Holds an outbox file, alone: a second process gets `OutboxFileError`."""

    def __init__(self, path: Path | str) -> None:
        """Opens or makes the file and drops a torn tail."""
        self.path = Path(path)
        self._dead_bytes = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The lock has a file of its own, because compaction replaces the data file.
            self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise OutboxFileError(f"outbox {self.path} cannot be opened: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OutboxFileError(
                f"outbox {self.path} is in use by another client; give every process a path of its own"
            ) from error
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            self.pending, self._end = self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def _recover(self) -> tuple[dict[int, bytes], int]:
        content = self.path.read_bytes()
        if not content or (len(content) < len(_MAGIC) and _MAGIC.startswith(content)):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, _MAGIC, 0)
            os.fsync(self._file)
            _sync_folder(self.path)
            return {}, len(_MAGIC)
        if not content.startswith(_MAGIC):
            os.close(self._file)
            raise OutboxFileError(f"{self.path} is not an outbox; choose another outbox_path")
        pending: dict[int, bytes] = {}
        end = len(_MAGIC)
        for kind, sequence, payload, stop in records(content):
            if kind == _REPORT:
                pending[sequence] = payload
            else:
                self._dead_bytes += _size(pending.pop(sequence, b"")) + _size(b"")
            end = stop
        if end < len(content):
            # Normally the half-written record of a crash. Kept aside in case it is more than that.
            self.path.with_name(self.path.name + ".torn").write_bytes(content[end:])
            _log.warning("Outbox %s: dropped %d unreadable bytes at its end", self.path, len(content) - end)
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return pending, end

    def append(self, sequence: int, payload: bytes) -> None:
        """Writes a report through to the disk. On failure the file is as before."""
        self._write(_record(_REPORT, sequence, payload))
        try:
            os.fsync(self._file)
        except OSError as error:
            raise OutboxFileError(f"outbox {self.path} could not be synced: {error}") from error

    def acknowledge(self, sequence: int, payload: bytes, pending: dict[int, bytes]) -> None:
        """Marks a report as done; rewrites the file when most of it is done reports."""
        self._write(_record(_ACKNOWLEDGED, sequence, b""))
        self._dead_bytes += _size(payload) + _size(b"")
        if self._dead_bytes >= _COMPACTION_BYTES and self._dead_bytes * 2 > self._end:
            self._compact(pending)

    def _write(self, record: bytes) -> None:
        try:
            written = 0
            while written < len(record):
                written += os.pwrite(self._file, record[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise OutboxFileError(f"outbox {self.path} could not be written: {error}") from error
        self._end += len(record)

    def _compact(self, pending: dict[int, bytes]) -> None:
        content = _MAGIC + b"".join(_record(_REPORT, *entry) for entry in pending.items())
        successor = self.path.with_name(self.path.name + ".new")
        file = os.open(successor, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(os.dup(file), "wb") as writer:
                writer.write(content)
            os.fsync(file)
            successor.replace(self.path)
        except OSError as error:
            os.close(file)
            # The old file is whole; it only stays longer than it needs to be.
            _log.warning("Outbox %s could not be compacted: %s", self.path, error)
            return
        _sync_folder(self.path)
        os.close(self._file)
        self._file, self._end, self._dead_bytes = file, len(content), 0

    def close(self) -> None:
        """Closes the file and lets another client have it."""
        os.close(self._file)
        os.close(self._lock)


def records(content: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Gives (kind, sequence, payload, end offset) of every whole record, up to the first that is not."""
    position = len(_MAGIC)
    while position + _FRAME.size + _HEAD.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, position)
        body = content[position + _FRAME.size : position + _FRAME.size + length]
        if length < _HEAD.size or len(body) < length or zlib.crc32(body) != checksum:
            return
        kind, sequence = _HEAD.unpack_from(body)
        if kind not in (_REPORT, _ACKNOWLEDGED):
            return
        position += _FRAME.size + length
        yield kind, sequence, body[_HEAD.size :], position


def _record(kind: int, sequence: int, payload: bytes) -> bytes:
    body = _HEAD.pack(kind, sequence) + payload
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _size(payload: bytes) -> int:
    return _FRAME.size + _HEAD.size + len(payload)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
