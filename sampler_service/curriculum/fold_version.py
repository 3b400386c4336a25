"""Which arithmetic a log is folded with, and what of a log this release can fold at all.

Replicas are equal because they fold the same events with the same arithmetic. While releases change, both kinds
of replica read the same log, so the arithmetic is a matter of the log, too: its first event and each new strategy
say the fold version in force from there on, and a release that does not know it stops there instead of going on
with a state of its own.

Raise `FOLD_VERSION` when a change makes events that were foldable before come to other numbers (another formula,
another order of a sum, another default that the log does not spell out), keep what the older version did, and
choose between them by `CurriculumState.fold_version`. What the log did not hold before (a new kind of event, a
new part of a strategy) needs no new number: a release that does not know it stops there by itself.
"""

from __future__ import annotations

from typing import Final

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import CurriculumError, Unavailable
from sampler_service.curriculum.strategy import Strategy

__all__ = ["FOLD_VERSION", "known_version", "readable_strategy", "require_foldable"]

FOLD_VERSION: Final = 1
"""The newest that this release folds with, and the one it asks for in the events it writes."""
_OLDEST: Final = 1
_RETRY_SECONDS: Final = 5.0


def known_version(version: int) -> int:
    """The fold version that an event or a state names; 0, from before there were any, is 1.

    Raises:
        Unavailable: this release cannot fold with it.
    """
    version = version or 1
    if version > FOLD_VERSION:
        raise _needs_newer(f"is folded with version {version}, this release knows up to {FOLD_VERSION}")
    if version < _OLDEST:
        raise Unavailable(
            "NEEDS_OLDER_RELEASE",
            f"The log is folded with version {version}, which this release no longer knows (from {_OLDEST} on). "
            "Put its strategy in force anew (UpdateCurriculum) with a release that knows both, then upgrade.",
        )
    return version


def readable_strategy(strategy_json: str) -> Strategy:
    """A strategy that was checked before it came into a log.

    Raises:
        Unavailable: it has parts that this release does not know.
    """
    try:
        return Strategy.from_json(strategy_json)
    except CurriculumError as error:
        raise _needs_newer(f"has a strategy that this release does not know ({error.message})") from error


def require_foldable(event: log_pb2.Event) -> None:
    """Makes sure that this release folds an event of a log as all others do.

    Raises:
        Unavailable: it does not know the event's kind, its strategy, or its fold version.
    """
    match event.WhichOneof("event"):
        case None:
            raise _needs_newer("holds a kind of event that this release does not know")
        case "curriculum_created":
            known_version(event.curriculum_created.fold_version)
            readable_strategy(event.curriculum_created.strategy_json)
        case "strategy_updated":
            known_version(event.strategy_updated.fold_version)
            readable_strategy(event.strategy_updated.strategy_json)


def _needs_newer(what: str) -> Unavailable:
    return Unavailable(
        "NEEDS_NEWER_RELEASE",
        f"The log {what}: it was written by a newer one. Replicas of that serve the curriculum; upgrade this one.",
        retry_after_seconds=_RETRY_SECONDS,
    )
