"""What an exported curriculum's file consists of.

- One row per prompt. Columns of `ListPromptStates` come first, named alike, for readers. Then what the state
  keeps of a prompt (`successes`, `last_steps`, `embeddings`, …): those columns are what an import reads.
- After the row groups, before Parquet's footer, the sections: every other array of the state, compressed.
  Parquet's readers go by the offsets in the footer and never look there.
- Before the footer its seal: a marker and the footer's digest, so that a damaged footer is never parsed.
- In the footer's metadata the manifest: format version, digest of every column and section, and a checksum of
  the manifest itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

__all__ = [
    "CHECKSUM_KEY",
    "FORMAT_KEY",
    "FORMAT_VERSION",
    "MANIFEST_KEY",
    "SEAL_BYTES",
    "ArchiveManifest",
    "Section",
    "checksum",
    "has_marker",
    "new_digest",
    "seal",
]

FORMAT_VERSION: Final = 1
"""Grows when an older release could not read the file any more."""
FORMAT_KEY: Final = b"curriculum_sampler.format_version"
MANIFEST_KEY: Final = b"curriculum_sampler.manifest"
CHECKSUM_KEY: Final = b"curriculum_sampler.checksum"

_MARKER: Final = b"curriculum-state"
SEAL_BYTES: Final = 32
"""Length of a seal."""


@dataclass(frozen=True, slots=True)
class Section:
    """An array that is no column: where its zlib stream lies in the file."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    stored_bytes: int
    digest: str


@dataclass(slots=True)
class ArchiveManifest:
    """What must be found in the file, and what it is about."""

    curriculum_id: str
    revision: str
    written_by: str
    policy_version: int
    prompts: int
    strategy: dict[str, Any]
    cluster_names: list[str]
    embedding_dim: int
    columns: dict[str, str] = field(default_factory=dict)
    """Of the state: name and digest of the raw little-endian values."""
    sections: list[Section] = field(default_factory=list)

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ArchiveManifest:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError if it is none."""
        plain = json.loads(text)
        return cls(**(plain | {"sections": [Section(**section) for section in plain["sections"]]}))


def new_digest() -> hashlib.blake2b:
    """BLAKE2b, 128 bits."""
    return hashlib.blake2b(digest_size=16)


def seal(footer: bytes) -> bytes:
    """What stands before a footer."""
    digest = new_digest()
    digest.update(footer)
    return _MARKER + digest.digest()


def has_marker(seal: bytes) -> bool:
    """Whether these bytes were a seal once."""
    return seal.startswith(_MARKER)


def checksum(manifest: bytes) -> bytes:
    """Of the manifest's JSON, hexadecimal."""
    digest = new_digest()
    digest.update(manifest)
    return digest.hexdigest().encode()
