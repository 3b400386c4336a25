"""Which role each RPC needs. One without an entry is for administrators."""

from __future__ import annotations

from collections.abc import Mapping

from sampler_service.access import Role

__all__ = ["METHOD_ROLES", "role_of"]

METHOD_ROLES: Mapping[str, Role] = {
    "GetCurriculum": Role.READ,
    "ListCurricula": Role.READ,
    "ListCheckpoints": Role.READ,
    "ListPromptStates": Role.READ,
    "GetPromptHistory": Role.READ,
    "GetSummary": Role.READ,
    "WatchSummary": Role.READ,
    "ExportCurriculum": Role.READ,
    # It changes nothing, but it is work.
    "ReplayCurriculum": Role.TRAIN,
    "CreateCurriculum": Role.TRAIN,
    "AddPrompts": Role.TRAIN,
    "NextBatch": Role.TRAIN,
    "ReportRollouts": Role.TRAIN,
    "StreamRollouts": Role.TRAIN,
    "ReleaseBatch": Role.TRAIN,
    "AdvancePolicy": Role.TRAIN,
    "CreateCheckpoint": Role.TRAIN,
    # A trainer that goes back to its own checkpoint takes the curriculum along, and tidies up after itself.
    "RestoreCheckpoint": Role.TRAIN,
    "DeleteCheckpoint": Role.TRAIN,
    "UpdateCurriculum": Role.ADMIN,
    "DeleteCurriculum": Role.ADMIN,
    # A whole state from elsewhere, leases and request ids included.
    "ImportCurriculum": Role.ADMIN,
}


def role_of(method: str) -> Role:
    """The role that a method of CurriculumService needs."""
    return METHOD_ROLES.get(method, Role.ADMIN)
