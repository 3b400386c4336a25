"""Why a prompt is in a batch: the values of the API's Source."""

from __future__ import annotations

from typing import Final

__all__ = ["COLD_START", "CONTINUATION", "EXPLORATION", "PROPOSAL", "REFERENCE", "REPLAY"]

PROPOSAL: Final = 1
EXPLORATION: Final = 2
REPLAY: Final = 3
CONTINUATION: Final = 4
COLD_START: Final = 5
REFERENCE: Final = 6
