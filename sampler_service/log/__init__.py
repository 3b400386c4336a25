"""The ordered, durable log: one Redis stream per curriculum, snapshots beside it, an embedded server.

async with EmbeddedServer("data") as server, LogClient(RedisSettings(url=server.url)) as client:
    log = client.log("math")
    revision = await log.create(b"first event")
    result = await log.append([b"second event"], after=revision)
"""

from sampler_service.log.client import LogClient
from sampler_service.log.connect import RedisSettings
from sampler_service.log.curriculum_log import AppendResult, CurriculumLog, Entry
from sampler_service.log.embedded import EmbeddedServer
from sampler_service.log.errors import (
    DataDirLockedError,
    EmbeddedServerError,
    LogAccessError,
    LogError,
    LogExistsError,
    LogFullError,
    LogGapError,
    LogLostError,
    LogMissingError,
    LogReplacedError,
    LogUnavailableError,
    ServerUnsuitableError,
    SnapshotCorruptError,
    SnapshotError,
    SnapshotFormatError,
    SnapshotMissingError,
    SnapshotterLostError,
)
from sampler_service.log.outlines import Outline
from sampler_service.log.revision import START, is_after, latest, parse_revision, revision_millis
from sampler_service.log.snapshots import SnapshotStore
from sampler_service.log.snapshotter import SnapshotterLock
from sampler_service.log.staging import IMPORT_REVISION, StagedSnapshot

__all__ = [
    "IMPORT_REVISION",
    "START",
    "AppendResult",
    "CurriculumLog",
    "DataDirLockedError",
    "EmbeddedServer",
    "EmbeddedServerError",
    "Entry",
    "LogAccessError",
    "LogClient",
    "LogError",
    "LogExistsError",
    "LogFullError",
    "LogGapError",
    "LogLostError",
    "LogMissingError",
    "LogReplacedError",
    "LogUnavailableError",
    "Outline",
    "RedisSettings",
    "ServerUnsuitableError",
    "SnapshotCorruptError",
    "SnapshotError",
    "SnapshotFormatError",
    "SnapshotMissingError",
    "SnapshotStore",
    "SnapshotterLock",
    "SnapshotterLostError",
    "StagedSnapshot",
    "is_after",
    "latest",
    "parse_revision",
    "revision_millis",
]
