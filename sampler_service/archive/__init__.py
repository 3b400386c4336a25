"""A curriculum as one Parquet file: a row per prompt for any reader, and all else the state needs beside it.

Importing this package needs pyarrow: ask `require_parquet` first.
"""

from sampler_service.archive.reading import ArchiveError, read_archive, read_manifest
from sampler_service.archive.writing import archive_chunks

__all__ = ["ArchiveError", "archive_chunks", "read_archive", "read_manifest"]
