"""Rows from files: JSONL, Parquet, and whatever the `datasets` library reads.

Every row comes with its place, so that a bad one can be named; a row that cannot be read at all is
a ValueError in its place, not the end of the reading.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_client.trainer_errors import ConfigError, DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RowSource:
    """A table. name: for messages. prefix: for the ids of rows that have none. read: place and row."""

    name: str
    prefix: str
    read: Callable[[], Iterator[tuple[str, Row | ValueError]]]


def jsonl_rows(path: Path) -> RowSource:
    """A JSONL file; blank lines are left out."""
    return RowSource(str(path), path.stem, lambda: _read_jsonl(path))


def parquet_rows(path: Path) -> RowSource:
    """A Parquet file, read piece by piece. Needs the extra `data`."""
    return RowSource(str(path), path.stem, lambda: _read_parquet(path))


def dataset_rows(path: str, configuration: str | None, split: str) -> RowSource:
    """A folder saved by the `datasets` library, a folder of data files, or a name on the hub."""
    name = f"{path}[{split}]" if configuration is None else f"{path}/{configuration}[{split}]"
    return RowSource(name, Path(path).name, lambda: _read_dataset(path, configuration, split))


def _read_jsonl(path: Path) -> Iterator[tuple[str, Row | ValueError]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"data set {path}: {error.strerror}; give the path of a JSONL file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data set {path}: not UTF-8 (byte {error.start}); convert it") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"line {number}", _json_row(line)


def _json_row(line: str) -> Row | ValueError:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON: {error.msg} at column {error.colno}")
    return row if isinstance(row, dict) else ValueError(f"expected an object, got {type(row).__name__}")


def _read_parquet(path: Path) -> Iterator[tuple[str, Row | ValueError]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise _missing_extra(str(path)) from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except OSError as error:
        raise DataError(f"data set {path}: {error.strerror or error}; give a Parquet file's path") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"data set {path}: not a Parquet file that can be read: {error}") from error


def _read_dataset(path: str, configuration: str | None, split: str) -> Iterator[tuple[str, Row | ValueError]]:
    try:
        import datasets
    except ImportError as error:
        raise _missing_extra(path) from error
    datasets.disable_progress_bars()
    folder = Path(path)
    try:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(path)
            if isinstance(rows, datasets.DatasetDict):
                rows = rows[split]
        else:
            rows = datasets.load_dataset(path, configuration, split=split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {path!r}, split {split!r}: cannot be read: {error}; give a folder or a name on the "
            "hub (which is only asked with HF_HUB_OFFLINE=0 in the environment)"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _missing_extra(name: str) -> ConfigError:
    return ConfigError(
        f"data set {name}: reading it needs pyarrow and datasets; install the 'data' extra, "
        "or convert the file to JSONL"
    )
