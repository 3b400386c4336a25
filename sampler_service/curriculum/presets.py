"""Named strategies."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DEFAULT_PRESET", "PRESETS"]

DEFAULT_PRESET: Final = "frontier"

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # What GRPO does by itself: the baseline.
    "uniform-grpo": {
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
        "exploration": 0.0,
    },
    # arXiv 2510.01037.
    "cures": {
        "estimator": {"decay": "iteration_reset"},
        "proposal": {"cures": {}},
        "quota": {"cures": {}},
    },
    # Ours.
    "frontier": {
        "estimator": {"decay": "policy_kl", "shared_evidence": "cluster"},
        "proposal": {"frontier": {}},
        "quota": {"frontier": {"min": 2, "max": 32}},
    },
}
