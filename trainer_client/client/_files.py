"""Exported curricula on the client's disk: read in pieces, written so that no half of one is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["FILE_TIMEOUT_SECONDS", "StrPath", "import_pieces", "written_whole"]

StrPath = str | os.PathLike[str]

# A million prompts with embeddings take minutes over a slow line.
FILE_TIMEOUT_SECONDS = 600.0
_PIECE_BYTES = 2**20


def import_pieces(path: StrPath, curriculum_id: str, request_id: str) -> Iterator[pb.ImportCurriculumRequest]:
    """The messages that carry a file. Raises `OSError` if it cannot be read."""
    with Path(path).open("rb") as file:
        piece = pb.ImportCurriculumRequest(curriculum_id=curriculum_id, request_id=request_id)
        piece.data = file.read(_PIECE_BYTES)
        yield piece
        while data := file.read(_PIECE_BYTES):
            yield pb.ImportCurriculumRequest(data=data)


@contextmanager
def written_whole(path: StrPath) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name when the block ends well, and is removed when it does not."""
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
