"""File to state, row group by row group; nothing is believed that does not match its digest."""

from __future__ import annotations

import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sampler_service.archive.layout import (
    CHECKSUM_KEY,
    FORMAT_KEY,
    FORMAT_VERSION,
    MANIFEST_KEY,
    SEAL_BYTES,
    ArchiveManifest,
    Section,
    checksum,
    has_marker,
    new_digest,
    seal,
)
from sampler_service.curriculum.table import column_dtype

__all__ = ["ArchiveError", "read_archive", "read_manifest"]

_CHUNK_BYTES: Final = 2**20
Fault = Literal["foreign", "newer", "damaged", "large"]


class ArchiveError(ValueError):
    """The file is not one that this release can import.

    Args:
        fault: `foreign` (not an exported curriculum), `newer` (a format this release does not know),
            `damaged` (cut, changed, or rewritten by another program), or `large` (it unpacks to too much).
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault: Fault = fault


def _damaged(what: str) -> ArchiveError:
    return ArchiveError(
        "damaged", f"The file is damaged or was rewritten by another program: {what}. Export it again."
    )


def _open(path: Path) -> pq.ParquetFile:
    _check_seal(path)
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(str(error).splitlines()[0][:200]) from None


def _check_seal(path: Path) -> None:
    """Makes sure that the footer is as it was written, before anything tries to parse it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise ArchiveError("foreign", "The file is not an exported curriculum: it is not Parquet.")
        file.seek(max(size - 8, 0))
        length, magic = struct.unpack("<I4s", file.read(8).ljust(8))
        if magic != b"PAR1" or length + 8 + SEAL_BYTES > size:
            raise _damaged("its end is not that of a Parquet file")
        file.seek(size - 8 - length - SEAL_BYTES)
        found, footer = file.read(SEAL_BYTES), file.read()
    if found == seal(footer):
        return
    if has_marker(found) or FORMAT_KEY in footer:
        raise _damaged("its footer does not match its digest")
    raise ArchiveError(
        "foreign",
        "The file is Parquet, but not an exported curriculum: its metadata names none."
        " Programs that rewrite a Parquet file leave it out; import the file that export wrote.",
    )


def _manifest(file: pq.ParquetFile) -> ArchiveManifest:
    metadata: dict[bytes, bytes] = file.metadata.metadata or {}
    if FORMAT_KEY not in metadata:
        raise _damaged("it has no format version")
    version = metadata[FORMAT_KEY].decode(errors="replace")
    if version != str(FORMAT_VERSION):
        if version.isdecimal() and int(version) > FORMAT_VERSION:
            raise ArchiveError(
                "newer",
                f"The file has format {version}; this release reads format {FORMAT_VERSION}: use a newer one.",
            )
        raise _damaged(f"its format version is {version[:20]!r}")
    text = metadata.get(MANIFEST_KEY, b"")
    if metadata.get(CHECKSUM_KEY) != checksum(text):
        raise _damaged("its manifest does not match its checksum")
    try:
        return ArchiveManifest.from_json(text.decode())
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(f"its manifest cannot be read ({error})") from None


def read_manifest(path: Path) -> ArchiveManifest:
    """What the file is about, from its footer alone.

    Raises:
        ArchiveError: see there.
    """
    with _open(path) as file:
        return _manifest(file)


def read_archive(
    path: Path, most_bytes: int = sys.maxsize
) -> tuple[ArchiveManifest, dict[str, NDArray[Any]]]:
    """The manifest, and the state's arrays as `CurriculumState.restore` takes them.

    Memory beside the result: one row group. Every array is checked against its digest.

    Args:
        most_bytes: of all arrays; what says that it unpacks to more is not unpacked.

    Raises:
        ArchiveError: see there.
    """
    with _open(path) as file:
        manifest = _manifest(file)
        unpacked = _unpacked_bytes(file, manifest)
        if unpacked > most_bytes:
            raise ArchiveError(
                "large", f"The file unpacks to {unpacked:,} bytes; at most {most_bytes:,} are allowed here."
            )
        if file.metadata.num_rows != manifest.prompts:
            raise _damaged(f"it has {file.metadata.num_rows} rows, {manifest.prompts} were written")
        missing = set(manifest.columns) - set(file.schema_arrow.names)
        if missing:
            raise _damaged(f"column {min(missing)!r} is missing")
        try:
            arrays = _Columns(manifest).read(file)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise _damaged(str(error).partition("\n")[0][:200]) from None
    size = path.stat().st_size
    with path.open("rb") as raw:
        for section in manifest.sections:
            if not (section.offset >= 0 and 0 <= section.stored_bytes <= size):
                raise _damaged(f"section {section.name!r} does not lie in it")
            raw.seek(section.offset)
            arrays[section.name] = _read_section(raw.read(section.stored_bytes), section)
    return manifest, arrays


def _unpacked_bytes(file: pq.ParquetFile, manifest: ArchiveManifest) -> int:
    """By what the file says of itself, before any of it is unpacked."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    columns: int = sum(max(group.total_byte_size, 0) for group in groups)
    try:
        sections = sum(_expected_bytes(section) for section in manifest.sections)
        rows = manifest.prompts * (2 * manifest.embedding_dim + 8 * len(manifest.columns))
    except (TypeError, ValueError) as error:
        raise _damaged(f"its manifest cannot be read ({error})") from None
    return columns + sections + rows


def _expected_bytes(section: Section) -> int:
    dtype = np.dtype(section.dtype)
    if dtype.hasobject or min(section.shape, default=0) < 0:
        raise ValueError(f"section {section.name!r} is no array of numbers")
    return int(math.prod(section.shape) * dtype.itemsize)


class _Columns:
    """Fills the table's arrays from row groups."""

    def __init__(self, manifest: ArchiveManifest) -> None:
        self._manifest = manifest
        self._names = list(manifest.columns)
        self._digests = {name: new_digest() for name in self._names}
        self._keys = {name: i for i, name in enumerate(manifest.cluster_names)} | {"": -1}
        self._blobs: list[bytes] = []
        self._lengths: list[NDArray[np.uint16]] = []
        self._arrays: dict[str, NDArray[Any]] = {}
        for name in self._names:
            if name == "embeddings":
                shape: Any = (manifest.prompts, manifest.embedding_dim)
                self._arrays[name] = np.empty(shape, dtype=np.float16)
            elif name != "prompt_ids":
                self._arrays[name] = np.empty(manifest.prompts, dtype=column_dtype(name))

    def read(self, file: pq.ParquetFile) -> dict[str, NDArray[Any]]:
        start = 0
        for number in range(file.metadata.num_row_groups):
            group = file.read_row_group(number, columns=self._names)
            stop = start + group.num_rows
            for name in self._names:
                self._take(name, group.column(name).combine_chunks(), start, stop)
            start = stop
        for name, digest in self._digests.items():
            if digest.hexdigest() != self._manifest.columns[name]:
                raise _damaged(f"column {name!r} does not match its digest")
        arrays = {f"table.{name}": array for name, array in self._arrays.items()}
        arrays["table.ids"] = np.frombuffer(bytearray(b"".join(self._blobs)), dtype=np.uint8)
        arrays["table.id_lengths"] = np.concatenate([np.zeros(0, np.uint16), *self._lengths])
        return arrays

    def _take(self, name: str, column: Any, start: int, stop: int) -> None:
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if column.null_count:
            raise _damaged(f"column {name!r} has empty cells")
        if name == "prompt_ids":
            self._take_ids(column.cast(pa.string()))
            return
        if name == "embeddings":
            values = column.flatten().to_numpy(zero_copy_only=False).reshape(stop - start, -1)
        elif name == "clusters":
            values = np.array([self._key(label) for label in column.to_pylist()], dtype=np.int32)
        else:
            values = column.to_numpy(zero_copy_only=False)
        target = self._arrays[name][start:stop]
        target[:] = values
        self._digests[name].update(_little(target))

    def _take_ids(self, column: Any) -> None:
        _, offsets, data = column.buffers()
        first = column.offset
        ends = np.frombuffer(offsets, dtype=np.int32)[first : first + len(column) + 1]
        blob = b"" if data is None else data[int(ends[0]) : int(ends[-1])].to_pybytes()
        lengths = np.diff(ends).astype(np.uint16)
        self._digests["prompt_ids"].update(_little(lengths))
        self._digests["prompt_ids"].update(blob)
        self._blobs.append(blob)
        self._lengths.append(lengths)

    def _key(self, label: str) -> int:
        key = self._keys.get(label)
        if key is None:
            raise _damaged(f"cluster {label[:40]!r} is not in the manifest")
        return key


def _little(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _read_section(stored: bytes, section: Section) -> NDArray[Any]:
    try:
        expected = _expected_bytes(section)
        raw = zlib.decompressobj().decompress(stored, expected + 1)
    except (zlib.error, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(f"section {section.name!r} cannot be read ({error})") from None
    digest = new_digest()
    digest.update(raw)
    if len(raw) != expected or digest.hexdigest() != section.digest:
        raise _damaged(f"section {section.name!r} does not match its digest")
    return np.frombuffer(bytearray(raw), dtype=np.dtype(section.dtype)).reshape(section.shape)
