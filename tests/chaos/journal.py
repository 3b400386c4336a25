"""What a trainer sent and was answered, line by line, kept over its own death."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends a line at a time: what is written is there, however the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, **fields: Any) -> None:
        """One line. A line is one write, so that none is ever half there."""
        os.write(self._file, json.dumps({"kind": kind, **fields}).encode() + b"\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """All that was noted so far."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)
