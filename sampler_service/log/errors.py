"""What can go wrong with the log, and what its caller should do.

LogError
├── LogUnavailableError       try again later, with the same request ids
├── LogAccessError            fix the password or the ACL
├── LogFullError              give the server memory or disk
├── ServerUnsuitableError     use another server or version
├── EmbeddedServerError       see its message: binary, data directory, log file
│   └── DataDirLockedError    another service owns the data directory
├── LogMissingError           no such curriculum (any more)
│   └── LogReplacedError      deleted and created anew: reopen
├── LogExistsError            choose another curriculum id
├── LogGapError               reload from the snapshot
├── LogLostError              reload, and tell people
└── SnapshotError
    ├── SnapshotMissingError  start from the log's beginning
    ├── SnapshotFormatError   use a release that knows the format
    ├── SnapshotCorruptError  load an older snapshot
    └── SnapshotterLostError  let the new snapshotter do it
"""

from __future__ import annotations

from collections.abc import Sequence


class LogError(Exception):
    """Base of everything this package raises on purpose."""


class LogUnavailableError(LogError, ConnectionError):
    """The server cannot be reached or cannot write now.

    Whether the last append happened is unknown: repeat it with the same request
    ids after `retry_after_seconds`; the fold drops what it has seen.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class LogAccessError(LogError, PermissionError):
    """The server refused our user, password or a command. Do not repeat: fix the settings or the ACL."""


class LogFullError(LogError):
    """The server is out of memory; nothing was written. Enlarge `maxmemory` and repeat."""


class ServerUnsuitableError(LogError):
    """The server lacks what the log needs (version, cluster state). Use another one."""


class EmbeddedServerError(LogError):
    """The embedded server did not start or could not be found; the message says why and what to do."""


class DataDirLockedError(EmbeddedServerError):
    """Another service runs on this data directory. Stop it or choose another directory."""

    def __init__(self, message: str, owner_pid: int | None) -> None:
        super().__init__(message)
        self.owner_pid = owner_pid


class LogMissingError(LogError, LookupError):
    """No log of this curriculum: never created, or deleted. Forget the curriculum; nothing was written."""


class LogReplacedError(LogMissingError):
    """The curriculum was deleted and created anew under its old id.

    What was appended in this call is void. Forget the old state, open the log again.
    """


class LogExistsError(LogError):
    """A curriculum of this id exists already. Read it, or choose another id."""


class LogGapError(LogError):
    """Entries after the caller's position were trimmed. Load the snapshot, read on from its revision.

    `own` names the entries that this very append did write: they are in the log and will be read.
    """

    def __init__(self, curriculum_id: str, after: str, horizon: str, own: Sequence[str] = ()) -> None:
        super().__init__(
            f"the log of curriculum {curriculum_id!r} was trimmed up to {horizon}, "
            f"so nothing can be read after {after}: load the snapshot"
        )
        self.after = after
        self.horizon = horizon
        self.own = list(own)


class LogLostError(LogError):
    """The server no longer has entries that it had acknowledged (wiped, restored, or a failover lost them).

    Drop the folded state, load snapshot and log again, and say so loudly. `own` as in `LogGapError`.
    """

    def __init__(self, message: str, own: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.own = list(own)


class SnapshotError(LogError):
    """Base of what goes wrong with snapshots."""


class SnapshotMissingError(SnapshotError, LookupError):
    """No snapshot (of this revision). Fold the log from its start, or choose another revision."""


class SnapshotFormatError(SnapshotError, ValueError):
    """The snapshot has a format this release does not know. Use the one that wrote it, or a newer one."""


class SnapshotCorruptError(SnapshotError):
    """A block or the manifest does not match its digest. Load an older snapshot, check the disk."""

    def __init__(self, message: str, column: str = "", block: int = -1) -> None:
        super().__init__(message)
        self.column = column
        self.block = block


class SnapshotterLostError(SnapshotError):
    """This process does not hold the snapshotter's lock (any more).

    Nothing visible was changed: leave it to the holder.
    """
