"""How a caller is turned away."""

from __future__ import annotations

from sampler_service.curriculum.errors import CurriculumError

__all__ = ["PermissionDenied", "Throttled", "Unauthenticated"]


class Unauthenticated(CurriculumError, PermissionError):
    """No credential, or none that is known."""

    code = 16


class PermissionDenied(CurriculumError, PermissionError):
    """The credential is known and does not allow this."""

    code = 7


class Throttled(CurriculumError, RuntimeError):
    """Too much in too short a time."""

    code = 8
