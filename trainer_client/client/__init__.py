"""The trainer's SDK: talk to a curriculum service from any trainer.

Needs grpcio, protobuf, googleapis-common-protos and numpy alone.
"""

from curriculum.v1.curriculum_pb2 import Checkpoint, Curriculum, Strategy, Summary
from trainer_client.client._arguments import NextBatchArguments
from trainer_client.client._async import AsyncCurriculumClient
from trainer_client.client._channel import Tls
from trainer_client.client._columns import (
    Action,
    AddedPrompts,
    Batch,
    Directive,
    Directives,
    PromptStates,
    Receipt,
    Rejection,
    Released,
    ReportResult,
    RolloutStatus,
    Source,
)
from trainer_client.client._health import Health
from trainer_client.client._outbox import RefusedReport
from trainer_client.client._requests import Report
from trainer_client.client._sync import CurriculumClient

__all__ = [
    "Action",
    "AddedPrompts",
    "AsyncCurriculumClient",
    "Batch",
    "Checkpoint",
    "Curriculum",
    "CurriculumClient",
    "Directive",
    "Directives",
    "Health",
    "NextBatchArguments",
    "PromptStates",
    "Receipt",
    "RefusedReport",
    "Rejection",
    "Released",
    "Report",
    "ReportResult",
    "RolloutStatus",
    "Source",
    "Strategy",
    "Summary",
    "Tls",
]
