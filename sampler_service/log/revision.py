"""Revisions: positions in a log, written as Redis stream ids, `milliseconds-sequence`.

To everything above this package a revision is opaque text; only here is it taken apart.
"""

from __future__ import annotations

START = "0-0"
"""Before the first entry of any log."""

_LARGEST = 2**64 - 1


def parse_revision(revision: str) -> tuple[int, int]:
    """Milliseconds and sequence of a revision; tuples compare in log order. `ValueError` if it is none."""
    millis, dash, sequence = revision.partition("-")
    if not (dash and _is_number(millis) and _is_number(sequence)):
        raise ValueError(
            f"revision {revision!r} is not of the form 'milliseconds-sequence', as in '1700000000000-0'"
        )
    parsed = int(millis), int(sequence)
    if max(parsed) > _LARGEST:
        raise ValueError(f"revision {revision!r} has a number over 64 bits")
    return parsed


def revision_millis(revision: str) -> int:
    """When the entry was appended: the server's clock, in milliseconds since 1970."""
    return parse_revision(revision)[0]


def is_after(revision: str, other: str) -> bool:
    """Whether `revision` lies strictly after `other`."""
    return parse_revision(revision) > parse_revision(other)


def latest(*revisions: str) -> str:
    """The one that lies furthest in the log."""
    return max(revisions, key=parse_revision)


def next_revision(revision: str) -> str:
    """The smallest revision after this one."""
    millis, sequence = parse_revision(revision)
    if sequence < _LARGEST:
        return f"{millis}-{sequence + 1}"
    return f"{millis + 1}-0"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
