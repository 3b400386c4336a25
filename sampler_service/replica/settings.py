"""Settings of a replica."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ReplicaSettings"]


class ReplicaSettings(BaseModel):
    """How a replica keeps its curricula."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snapshot_events: int = Field(default=2048, ge=1)
    """Events after which a snapshot is taken: what a recovery has to fold at most, about."""
    snapshot_bytes: int = Field(default=64 * 2**20, ge=1)
    """Bytes of events after which a snapshot is taken."""
    snapshot_lock_seconds: float = Field(default=120.0, gt=0)
    """How long a snapshotter that died keeps others from taking over."""
    max_memory_bytes: int = Field(default=8 * 2**30, ge=2**20)
    """Memory for curricula, estimated; beyond it those used the longest ago are let go, to be loaded again on
    demand."""
    idle_seconds: float = Field(default=900.0, gt=0)
    """A curriculum that no call has used for this long, and that has no batch out, is let go."""
    tick_seconds: float = Field(default=1.0, gt=0)
    """How often leases are checked for expiry, and housekeeping is done."""
    max_lag_seconds: float = Field(default=10.0, gt=0)
    """A replica that has not seen the end of a loaded curriculum's log for this long is NOT_SERVING until it is
    well below half of it again."""
    background_refresh_prompts: int = Field(default=50_000, ge=1)
    """Pools of at least this size are weighed anew in a thread when the policy advances."""
    max_import_bytes: int = Field(default=16 * 2**30, ge=2**20)
    """Largest file that ImportCurriculum takes; it is kept in the temporary directory (TMPDIR) while checked."""
    shadow_share: float = Field(default=0.25, gt=0, le=1)
    """Most of one processor that following shadow strategies takes, on average; comparisons are skipped first."""
    max_grant_attempts: int = Field(default=16, ge=1)
    """Draws of one batch before giving up, when other replicas are faster each time."""
