"""What is compared: presets, and `frontier` with one part exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

__all__ = ["ARMS", "Arm", "chosen_arms"]


@dataclass(frozen=True)
class Arm:
    """A strategy under a name, and what the learner does differently under it."""

    name: str
    preset: str
    overrides: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)
    batch: int = 0
    """Prompts per step where they are not the setting's: fewer or more, at the same rollouts."""


_PRESETS: Final = (
    "uniform-grpo", "frontier", "frontier-ranked", "cures", "vcrl", "learnability", "dapo", "mopps", "vade", "speed",
    "knapsack", "pilot-commit",
)  # fmt: skip
_ONE_SHOT: Final[dict[str, Any]] = {"stopping": {"one_shot": {}}}
_PILOT: Final[dict[str, Any]] = {"stopping": {"best_first": {"candidates": 1.0, "pilot": 4, "commit": 8}}}


def _ranked(**parameters: Any) -> dict[str, Any]:
    return {"proposal": {"frontier": {"temperature": 0.002, **parameters}}}


def _power(power: float, **parameters: Any) -> dict[str, Any]:
    return {"proposal": {"frontier": {"power": power, **parameters}}}


def _shared(method: str) -> dict[str, Any]:
    """The posterior is the prompt's own counts, with or without a prior from others."""
    return {"estimator": {"decay": {"per_visit": {"factor": 0.9}}, "shared_evidence": {method: {}}}}


def _arm(name: str, *parts: dict[str, Any], **more: Any) -> Arm:
    overrides = {key: value for part in parts for key, value in part.items()}
    return Arm(name, "frontier", overrides | more)


ARMS: Final = (
    *(Arm(name, name) for name in _PRESETS),
    # What was tried to improve on `frontier`, which draws with power 4 alone: fresh prompts first, all clusters
    # alike, sharper where steps are diluted.
    _arm("power 4, fatigue 1", _power(4, fatigue=1)),
    _arm("power 4, fatigue 1, balance 0.5", _power(4, fatigue=1, balance=0.5)),
    *(
        _arm(f"{name}, sharper", _power(4, diluted_power=64, **parts), _ONE_SHOT)
        for name, parts in {
            "power 4, fatigue 1": {"fatigue": 1},
            "power 4, balance 0.5": {"balance": 0.5},
            "power 4, fatigue 1, balance 0.5": {"fatigue": 1, "balance": 0.5},
        }.items()
    ),
    _arm("power 4, sharper when established", _power(4, diluted_power=64, dilution_error=0.3), _ONE_SHOT),
    _arm("power 16, fatigue 0.1", _power(16, fatigue=0.1)),
    _arm("power 16, fatigue 0.1, balance 0.9", _power(16, fatigue=0.1, balance=0.9)),
    # `frontier` draws with power 4 in one round, `frontier-ranked` ranks, with a pilot. What lies between:
    # how sharply the draw prefers, how soon a prompt comes back.
    _arm("ranked", _ranked(), _ONE_SHOT),
    *(_arm(f"ranked, rest {n}", _ranked(rest_steps=n), _ONE_SHOT) for n in (2, 4, 8, 16, 64)),
    *(_arm(f"power {n}", _power(n), _ONE_SHOT) for n in (1, 2, 4, 8, 16)),
    *(_arm(f"power {n}, pilot", _power(n), _PILOT) for n in (4, 8)),
    *(_arm(f"power 4, rest {n}", _power(4, rest_steps=n), _ONE_SHOT) for n in (8, 32)),
    # The other parts.
    _arm("frontier, knapsack quotas", quota={"frontier": {}}),
    *(_arm(f"frontier, exploration {share:g}", exploration=share) for share in (0.0, 0.25, 0.5)),
    _arm("frontier, own counts", _shared("none")),
    _arm("frontier, cluster prior", _shared("cluster")),
    Arm("frontier, 16 per prompt", "frontier", batch=4),
    Arm("frontier, 4 per prompt", "frontier", batch=16),
)  # fmt: skip


def chosen_arms(names: Sequence[str]) -> list[Arm]:
    """Uniform first, then those named, in that order; `ab*` stands for all that begin so. All without names.

    Raises ValueError for a name that no arm has.
    """
    chosen = {arm.name: arm for arm in ARMS if arm.name == "uniform-grpo" or not names}
    for name in names:
        found = [arm for arm in ARMS if fnmatchcase(arm.name, name)]
        if not found:
            raise ValueError(f"no arm {name!r}; known: {', '.join(arm.name for arm in ARMS)}")
        chosen |= {arm.name: arm for arm in found}
    return list(chosen.values())
