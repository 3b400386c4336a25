"""Ids with slashes in paths: `openai%2Fgsm8k` is one segment and one id.

Servers decode a path before it is routed, and then its slashes are all alike. So those that came encoded travel
as a character that no path has, until the route has taken its parameters.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator
from starlette.types import Scope

__all__ = ["NOT_IN_PATHS", "CurriculumId", "IdInPath", "restored", "routable_path"]

_SLASH = "\x1f"
_ENCODED = re.compile(rb"%2f", re.IGNORECASE)

NOT_IN_PATHS = frozenset({"\n", _SLASH})
"""What is refused in a decoded path: patterns that end in `$` take a line break at the end for nothing."""


def routable_path(scope: Scope) -> str:
    """The decoded path, slashes that came encoded marked. It must not hold what is not in paths before."""
    raw: bytes = scope.get("raw_path") or b""
    if not _ENCODED.search(raw):
        return str(scope["path"])
    return unquote(_ENCODED.sub(_SLASH.encode(), raw).decode("ascii"))


def restored(segment: str) -> str:
    """The id that a segment stands for."""
    return segment.replace(_SLASH, "/")


IdInPath = Annotated[str, AfterValidator(restored)]
CurriculumId = IdInPath
