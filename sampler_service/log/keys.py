"""Names of the keys. All keys of a curriculum share one hash tag, so that a Cluster keeps them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurriculumKeys:
    """The keys of one curriculum."""

    log: str
    """Stream: the events."""
    horizon: str
    """Hash: `incarnation` of the log, `revision` up to which it was trimmed, `deleted` after deletion."""
    head: str
    """String: revision of the newest snapshot."""
    manifests: str
    """Hash: revision → `SnapshotManifest`."""
    blocks: str
    """Hash: digest → encoded block."""
    snapshotter: str
    """String with expiry: token of the process that may write snapshots."""
    outline: str
    """Hash: `revision` and `payload` of what a list says of the curriculum."""

    @classmethod
    def of(cls, prefix: str, curriculum_id: str) -> CurriculumKeys:
        """The keys of `curriculum_id` under `prefix`."""
        base = f"{prefix}{{cur:{curriculum_id}}}:"
        return cls(
            log=base + "log",
            horizon=base + "horizon",
            head=base + "head",
            manifests=base + "manifests",
            blocks=base + "blocks",
            snapshotter=base + "snapshotter",
            outline=base + "outline",
        )

    def data(self) -> list[str]:
        """Every key that deletion removes; `horizon` stays for a while as the tombstone."""
        return [self.log, self.head, self.manifests, self.blocks, self.snapshotter, self.outline]


def index_key(prefix: str) -> str:
    """Set: ids of all curricula."""
    return f"{prefix}curricula"
