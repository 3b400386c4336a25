"""Tables and text that survive being put into markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "prose", "table"]

_CODE_SPAN = re.compile(r"(`[^`]*`)")


def prose(text: str) -> str:
    """Text of a comment or docstring: what looks like HTML or emphasis outside code spans stays as written."""
    pieces = _CODE_SPAN.split(text)
    return "".join(
        piece if index % 2 else re.sub(r"([*_])", r"\\\1", piece.replace("<", "&lt;"))
        for index, piece in enumerate(pieces)
    )


def code(text: str) -> str:
    """A code span; nothing for an empty text."""
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells hold markdown, on one line each."""
    lines = [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_unparted(" ".join(cell.split())) for cell in cells) + " |"


def _unparted(cell: str) -> str:
    # Within a code span a bar parts no cells, and a backslash would be shown.
    pieces = _CODE_SPAN.split(cell)
    return "".join(piece if index % 2 else piece.replace("|", "\\|") for index, piece in enumerate(pieces))
