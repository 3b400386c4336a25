"""`python -m benchmarks trained`: strategies on a small language model that is really trained.

All arms start from the same weights and spend the same rollouts; the trainer, its loop and its optimizer are
the shipped ones. The first run makes the starting policy (two to four minutes on one core) and keeps it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.environment import environment
from benchmarks.trained.arms import ARMS, chosen_arms
from benchmarks.trained.results import HEADER, line, summary
from benchmarks.trained.run import Curve, Setting, run_arm
from benchmarks.trained.warm_start import warm_start


def main() -> None:
    args = _arguments()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    args.model_directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    setting = Setting(
        warm_start(args.model_directory),
        steps=args.steps,
        batch=args.batch,
        group=args.group,
        learning_rate=args.learning_rate,
        optimizer=args.optimizer,
        clip=not args.no_clip,
        told=tuple(args.told),
        coins=args.coins,
        every=args.every,
    )
    print(HEADER, flush=True)
    rows: list[dict[str, Any]] = []
    uniform: list[Curve] = []
    for arm in chosen_arms(args.arms):
        runs = [run_arm(arm, setting, seed) for seed in range(args.first_seed, args.first_seed + args.seeds)]
        uniform = uniform or runs
        rows.append(summary(arm.name, runs, uniform))
        print(line(rows[-1]), flush=True)
        if args.json:
            _write(args.json, setting, args, rows)


def _write(path: Path, setting: Setting, args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """After every arm: a study that is cut short has not been for nothing."""
    settings = {**vars(replace(setting, model=Path(setting.model.name))), "seeds": args.seeds}
    settings["first_seed"] = args.first_seed
    document = {
        "environment": environment() | {"torch": torch.__version__},
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
        },
        "results": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    defaults = Setting(Path())
    kept = Path(tempfile.gettempdir()) / "curriculum-trained"
    parser = argparse.ArgumentParser(prog="python -m benchmarks trained", description=__doc__)
    add = parser.add_argument
    add("--arms", nargs="*", default=[], help=f"patterns of: {', '.join(arm.name for arm in ARMS)}")
    add("--seeds", type=int, default=3)
    add("--first-seed", type=int, default=0)
    add("--steps", type=int, default=defaults.steps)
    add("--batch", type=int, default=defaults.batch, help="prompts per step")
    add("--group", type=int, default=defaults.group, help="rollouts per prompt, on average")
    add("--learning-rate", type=float, default=defaults.learning_rate)
    add("--optimizer", choices=("adam", "sgd"), default=defaults.optimizer)
    add("--no-clip", action="store_true", help="do not scale gradients down to norm 1")
    add("--told", nargs="*", choices=("clusters", "embeddings"), default=list(defaults.told),
        help="what the curriculum learns about prompts")  # fmt: skip
    add("--coins", type=int, default=defaults.coins, help="prompts that nothing can be learnt from")
    add("--every", type=int, default=defaults.every, help="steps between evaluations")
    add("--model-directory", type=Path, default=kept, help="where the starting policy is kept")
    add("--json", type=Path, help="write results here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
