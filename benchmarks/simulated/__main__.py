"""`python -m benchmarks.simulated`: every preset on a policy-gradient learner, at equal rollouts."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated.arms import Arm, Curve, arms, run_arm
from benchmarks.simulated.learner import LearnerConfig
from benchmarks.simulated.pools import FEATURES, SHAPES, Features, Pool, Shape, make_pool


def main() -> None:
    args = _arguments()
    chosen = [arm for arm in arms(ablations=args.ablations) if _wanted(arm, args.arms)]
    config = LearnerConfig(
        args.learning_rate,
        args.optimizer,
        args.advantage,
        args.normaliser,
        args.memorisation,
        args.reward_noise,
    )
    rows: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], list[Curve]] = {}
    for shape in args.pools:
        for features in args.features:
            print(f"\n{shape} pool, features: {features}; {args.seeds} seeds, {args.rollouts} rollouts")
            print(
                f"{'arm':44s} {'speed-up':>14s} {'mixed':>6s} {'Brier':>6s} {'MSE p':>6s} {'final':>6s} {'updates':>7s}"
            )
            baselines: list[Curve] = []
            for arm in chosen:
                runs = [
                    run_arm(
                        arm,
                        _pool(args, shape, features, seed),
                        config,
                        seed,
                        args.rollouts,
                        args.batch,
                        args.group,
                    )
                    for seed in range(args.first_seed, args.first_seed + args.seeds)
                ]  # fmt: skip
                baselines = baselines or runs
                curves[shape, arm.name] = runs
                rows.append({"pool": shape, "features": features, **_summary(arm, runs, baselines)})
                _print(rows[-1])
    if args.json:
        environment = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "system": platform.system(),
        }
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "plot")}
        text = json.dumps({"environment": environment, "settings": settings, "results": rows}, indent=1)
        Path(args.json).write_text(text + "\n")
    if args.plot:
        _plot(curves, args.plot)


def _pool(args: argparse.Namespace, shape: Shape, features: Features, seed: int) -> Pool:
    rng = np.random.default_rng(seed)
    return make_pool(shape, rng, features, args.prompts, skills=args.skills, noise=args.noise)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated", description=__doc__)
    parser.add_argument("--arms", nargs="*", default=[], help="names or parts of names; uniform is always in")
    parser.add_argument("--ablations", action="store_true", help="the parts of frontier-ranked, and powers")
    parser.add_argument("--pools", nargs="+", choices=SHAPES, default=["skewed", "broad"])
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=["none"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rollouts", type=int, default=51_200, help="in all, dropped ones included")
    parser.add_argument("--batch", type=int, default=32, help="prompts per batch")
    parser.add_argument("--group", type=int, default=8, help="rollouts per prompt, on average")
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--skills", type=int, default=24)
    parser.add_argument("--noise", type=float, default=1.0, help="of the features")
    parser.add_argument("--learning-rate", type=float, default=2.0)
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--advantage", choices=("grpo", "dr_grpo"), default="grpo")
    parser.add_argument("--normaliser", choices=("nominal", "kept", "mixed"), default="nominal")
    parser.add_argument("--memorisation", type=float, default=0.0)
    parser.add_argument("--reward-noise", type=float, default=0.0)
    parser.add_argument("--json", help="write results here")
    parser.add_argument("--plot", help="write learning curves here (PNG; needs matplotlib)")
    return parser.parse_args()


def _wanted(arm: Arm, names: list[str]) -> bool:
    return not names or arm.name == "uniform-grpo" or any(name in arm.name for name in names)


def _summary(arm: Arm, runs: list[Curve], baselines: list[Curve]) -> dict[str, Any]:
    ratios = [
        base.rollouts_to(base.accuracies[-1]) / run.rollouts_to(base.accuracies[-1])
        for run, base in zip(runs, baselines, strict=True)
    ]
    return {
        "arm": arm.name,
        "published": arm.published,
        # A run that never gets there counts as 0.
        "speed_up": float(np.mean(ratios)),
        "speed_up_standard_error": float(np.std(ratios, ddof=1) / np.sqrt(len(ratios))) if len(ratios) > 1 else 0.0,
        "speed_ups": [round(ratio, 3) for ratio in ratios],
        "mixed_group_share": float(np.mean([np.mean(run.mixed_shares) for run in runs])),
        "brier_score": float(np.mean([np.mean(run.brier_scores) for run in runs])),
        "pass_rate_mean_squared_error": float(np.mean([np.mean(run.pass_rate_errors) for run in runs])),
        "final_accuracy": float(np.mean([run.accuracies[-1] for run in runs])),
        "updates": float(np.mean([len(run.mixed_shares) for run in runs])),
    }  # fmt: skip


def _print(row: dict[str, Any]) -> None:
    speed = f"{row['speed_up']:6.2f} ± {row['speed_up_standard_error']:5.2f}"
    errors = f"{row['brier_score']:6.3f} {row['pass_rate_mean_squared_error']:6.3f}"
    ends = f"{row['final_accuracy']:6.3f} {row['updates']:7.0f}"
    print(f"{row['arm']:44s} {speed} {row['mixed_group_share']:6.2f} {errors} {ends}", flush=True)


def _plot(curves: dict[tuple[str, str], list[Curve]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys(shape for shape, _ in curves))
    figure, axes = plt.subplots(1, len(shapes), figsize=(6 * len(shapes), 4.2), squeeze=False, sharey=True)
    for axis, shape in zip(axes[0], shapes, strict=True):
        for (where, name), runs in curves.items():
            if where == shape:
                grid = np.linspace(0, min(run.rollouts[-1] for run in runs), 200)
                mean = np.mean([np.interp(grid, run.rollouts, run.accuracies) for run in runs], axis=0)
                axis.plot(grid, mean, label=name, linewidth=2.5 if name == "frontier" else 1.2)
        axis.set(title=f"{shape} pool", xlabel="rollouts", ylabel="held-out accuracy")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
