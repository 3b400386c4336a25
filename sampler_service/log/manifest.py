"""Manifests: what a snapshot consists of, sealed with a checksum."""

from __future__ import annotations

import hashlib

from google.protobuf.message import DecodeError

from curriculum.v1.log_pb2 import SnapshotManifest
from sampler_service.log.errors import SnapshotCorruptError, SnapshotFormatError

FORMAT_VERSION = 2
"""Of blocks and manifest; grows when an older release could not read them any more. 2: embeddings in blocks."""

OLDEST_VERSION = 1
"""The oldest that this release reads."""


def seal(manifest: SnapshotManifest) -> SnapshotManifest:
    """Write the checksum over everything else."""
    manifest.checksum = _checksum(manifest)
    return manifest


def parse_manifest(stored: bytes, curriculum_id: str, revision: str) -> SnapshotManifest:
    """The manifest, checked. `SnapshotFormatError` if foreign or newer, `SnapshotCorruptError` if damaged."""
    try:
        manifest = SnapshotManifest.FromString(stored)
    except DecodeError as error:
        raise SnapshotFormatError(
            f"snapshot {revision} of curriculum {curriculum_id!r} is not one of ours: {error}"
        ) from error
    if not OLDEST_VERSION <= manifest.format_version <= FORMAT_VERSION:
        raise SnapshotFormatError(
            f"snapshot {revision} of curriculum {curriculum_id!r} has format {manifest.format_version}; "
            f"this release knows formats {OLDEST_VERSION} to {FORMAT_VERSION}: "
            "use the release that wrote it, or a newer one"
        )
    if manifest.checksum != _checksum(manifest):
        raise SnapshotCorruptError(
            f"the manifest of snapshot {revision} of curriculum {curriculum_id!r} does not match its checksum"
        )
    if (manifest.curriculum_id, manifest.revision) != (curriculum_id, revision):
        raise SnapshotCorruptError(
            f"the manifest kept for snapshot {revision} of curriculum {curriculum_id!r} "
            f"belongs to {manifest.revision} of {manifest.curriculum_id!r}"
        )
    return manifest


def _checksum(manifest: SnapshotManifest) -> bytes:
    # Our own byte order, because protobuf does not promise that its encoding stays the same.
    digest = hashlib.blake2b(digest_size=16)

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(str(manifest.format_version).encode())
    add(manifest.curriculum_id.encode())
    add(manifest.revision.encode())
    for column in manifest.columns:
        add(column.name.encode())
        add(column.dtype.encode())
        add(repr(tuple(column.shape)).encode())
        add(b"".join(column.blocks))
    return digest.digest()
