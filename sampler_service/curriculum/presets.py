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
        "iterations": {"subsets": 15, "steps": 10, "cold_start_rollouts": 4},
    },
    # What its released code does where that differs from the paper.
    "cures-ref": {
        "estimator": {"decay": "iteration_reset"},
        "proposal": {"cures_ref": {}},
        "quota": {"cures_ref": {}},
        "exploration": 0.0,
    },
    # arXiv 2503.14476: dynamic sampling.
    "dapo": {
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
        "stopping": {"zero_variance": {}},
        "exploration": 0.0,
    },
    # arXiv 2505.02391.
    "gvm": {
        "estimator": {"decay": {"per_visit": {"factor": 0.5}}},
        "proposal": {"uniform": {}},
        "quota": {"gvm": {}},
    },
    # arXiv 2510.04996, three methods.
    "reinforce-ada-pos": {
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
        "stopping": {"positives": {}},
        "exploration": 0.0,
    },
    "reinforce-ada-balance": {
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
        "stopping": {"balanced": {"round": 8, "keep": 4, "max": 32}},
        "exploration": 0.0,
    },
    "ada-est": {
        "estimator": {"decay": {"per_visit": {"factor": 0.9}}, "prior": [1, 16]},
        "proposal": {"uniform": {}},
        "quota": {"ada_est": {}},
    },
    # arXiv 2509.19803.
    "vcrl": {
        "proposal": {"vcrl": {}},
        "quota": {"fixed": {}},
        "stopping": {"variance_floor": {}},
    },
    # arXiv 2506.05316. Without embeddings it starts from each prompt's own outcomes.
    "dots": {
        "estimator": {
            "decay": {"per_visit": {"factor": 0.5}},
            "shared_evidence": {"attention": {"refresh_steps": 50}},
        },
        "proposal": {"dots": {}},
        "quota": {"fixed": {}},
    },
    # arXiv 2602.06375.
    "depo": {
        "estimator": {"decay": {"per_visit": {"factor": 0.5}}, "shared_evidence": "online_logistic"},
        "proposal": {"depo": {}},
        "quota": {"fixed": {}},
    },
    # arXiv 2511.18902.
    "vade": {
        "estimator": {"decay": "two_scale"},
        "proposal": {"thompson": {"objective": "info_gain"}},
        "quota": {"fixed": {}},
    },
    # arXiv 2507.04632.
    "mopps": {
        "estimator": {"decay": {"per_visit": {"factor": 0.5}}},
        "proposal": {"thompson": {"objective": "target", "target": 0.5}},
        "quota": {"fixed": {}},
    },
    # arXiv 2510.26374.
    "bots": {
        "estimator": {"decay": "forget_all", "shared_evidence": {"anchors": {"strength": 16}}},
        "proposal": {"thompson": {"objective": "target", "target": 0.5}},
        "quota": {"fixed": {}},
    },
    # arXiv 2506.09016.
    "speed": {
        "proposal": {"speed": {}},
        "quota": {"fixed": {}},
        "stopping": {"screen": {}},
    },
    # arXiv 2508.14094. Needs reference pass rates; without any it is uniform.
    "hard-examples": {
        "proposal": {"hardest": {}},
        "quota": {"fixed": {}},
    },
    # arXiv 2504.05520.
    "adarft": {
        "proposal": {"adarft": {}},
        "quota": {"fixed": {}},
    },
    # arXiv 2502.12272.
    "learnability": {
        "estimator": {"decay": {"per_visit": {"factor": 0.9}}},
        "proposal": {"learnability": {}},
        "quota": {"fixed": {}},
    },
    # Ours, after a literature review.
    "difficulty-tracker": {
        "proposal": {"ucb": {}},
        "quota": {"fixed": {}},
    },
    # arXiv 2509.25849.
    "knapsack": {
        "estimator": {"decay": {"per_visit": {"factor": 0.9}}},
        "proposal": {"uniform": {}},
        "quota": {"knapsack": {"min": 2, "max": 128}},
    },
    # arXiv 2605.26606.
    "pilot-commit": {
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
        "stopping": {"pilot": {}},
    },
    # arXiv 2305.10429, over the curriculum's clusters.
    "doremi": {
        "clusters": {"minimax": {}},
        "proposal": {"uniform": {}},
        "quota": {"fixed": {}},
    },
    # Ours: the frontier in proportion, one round per step; its best, with a pilot, once the trainer's steps are
    # established to be diluted. docs/decisions/018, 024, 027.
    "frontier": {
        "estimator": {"decay": "none", "shared_evidence": "item_response"},
        "proposal": {
            "frontier": {
                "power": 4,
                "diluted_power": 64,
                "dilution_error": 0.3,
                "dilution_differences": 6,
                "dilution_probes": 1,
                "dilution_hold": True,
            }
        },
        # A group of one teaches nothing.
        "quota": {"fixed": {"min": 2}},
        "stopping": {"best_first_when_diluted": {"candidates": 0.375, "pilot": 4, "commit": 32}},
        "exploration": 0.1,
    },
    # Ours: the frontier's best, with a pilot. For steps that dilute, such as plain SGD's. docs/decisions/011.
    "frontier-ranked": {
        "estimator": {"decay": "none", "shared_evidence": "item_response"},
        "proposal": {"frontier": {"temperature": 0.002}},
        "quota": {"fixed": {}},
        "stopping": {"best_first": {"candidates": 1.0, "pilot": 4, "commit": 8}},
        "exploration": 0.1,
    },
}
