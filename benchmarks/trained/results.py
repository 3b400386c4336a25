"""From curves to figures: speed-ups over uniform sampling with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.trained.run import Curve

__all__ = ["HEADER", "line", "summary"]

# Uniform's last tenth of progress takes long and says little: the target is short of it.
_SHARE_OF_PROGRESS = 0.9
HEADER = (
    f"{'arm':34s} {'accuracy, mean':>15s} {'end':>14s} {'speed-up':>12s} {'in time':>12s}"
    f" {'mixed':>6s} {'prompts':>8s} {'rounds':>7s} {'s/step':>7s}"
)


def summary(name: str, runs: Sequence[Curve], uniform: Sequence[Curve]) -> dict[str, Any]:
    """Figures of an arm; `uniform` has the baseline's runs of the same seeds.

    The speed-up is what uniform sampling needed over what the arm needed for nine tenths of uniform's gain;
    a run that never gets there counts 0.
    """
    targets = [_target(base) for base in uniform]
    in_rollouts = [
        _reached(base.rollouts, base.accuracies, target) / _reached(run.rollouts, run.accuracies, target)
        for run, base, target in zip(runs, uniform, targets, strict=True)
    ]
    in_seconds = [
        _reached(base.seconds, base.accuracies, target) / _reached(run.seconds, run.accuracies, target)
        for run, base, target in zip(runs, uniform, targets, strict=True)
    ]
    kinds = runs[0].by_kind[0]
    steps = len(runs[0].mixed_shares)
    return {
        "arm": name,
        "mean_accuracy": _with_error([float(np.mean(run.accuracies)) for run in runs]),
        "final_accuracy": _with_error([float(np.mean(run.accuracies[-3:])) for run in runs]),
        "speed_up": _with_error(in_rollouts),
        "speed_up_in_seconds": _with_error(in_seconds),
        "mixed_group_share": _mean([float(np.mean(run.mixed_shares)) for run in runs]),
        "gradient_norm": _mean([float(np.mean(run.gradient_norms)) for run in runs]),
        "distinct_prompts": _mean([run.distinct for run in runs]),
        "dilution": _mean([run.dilution for run in runs]),
        "rounds_per_step": _mean([float(np.mean(run.rounds)) for run in runs]),
        "tokens": _mean([run.tokens for run in runs]),
        "seconds_per_step": _mean([run.seconds[-1] / steps for run in runs]),
        "first_by_kind": {kind: round(kinds[kind], 3) for kind in kinds},
        "final_by_kind": {kind: _mean([run.by_kind[-1][kind] for run in runs]) for kind in kinds},
        "lowest_by_kind": {
            kind: _mean([min(at[kind] for at in run.by_kind) for run in runs]) for kind in kinds
        },
        "drawn_by_kind": {kind: _mean([run.drawn_by_kind.get(kind, 0.0) for run in runs]) for kind in kinds},
        "rollouts": runs[0].rollouts,
        "accuracies": [round(float(value), 4) for value in np.mean([run.accuracies for run in runs], axis=0)],
    }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['arm']:34s} {_plus_minus(row['mean_accuracy'], 4):>15s} {_plus_minus(row['final_accuracy'], 3):>14s}"
        f" {_plus_minus(row['speed_up'], 2):>12s} {_plus_minus(row['speed_up_in_seconds'], 2):>12s}"
        f" {row['mixed_group_share']:6.2f} {row['distinct_prompts']:8.0f} {row['rounds_per_step']:7.2f}"
        f" {row['seconds_per_step']:7.3f}"
    )


def _target(uniform: Curve) -> float:
    start, end = uniform.accuracies[0], float(np.mean(uniform.accuracies[-3:]))
    return start + _SHARE_OF_PROGRESS * (end - start)


def _reached(spent: Sequence[float], accuracies: Sequence[float], target: float) -> float:
    """What was spent when the accuracy was first at the target, interpolated; infinite if never."""
    for i in range(1, len(accuracies)):
        if accuracies[i] >= target:
            share = (target - accuracies[i - 1]) / max(accuracies[i] - accuracies[i - 1], 1e-12)
            return spent[i - 1] + max(share, 0.0) * (spent[i] - spent[i - 1])
    return math.inf


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _with_error(values: Sequence[float]) -> dict[str, Any]:
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return {
        "mean": _mean(values),
        "standard_error": round(error, 4),
        "runs": [round(float(value), 4) for value in values],
    }


def _plus_minus(figure: dict[str, Any], digits: int) -> str:
    return f"{figure['mean']:.{digits}f} ± {figure['standard_error']:.{digits}f}"
