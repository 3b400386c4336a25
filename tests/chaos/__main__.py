"""`python -m tests.chaos [--seed N] [--seconds 60] [--trainers 4] [--runs 1]`."""

from __future__ import annotations

import argparse
import random

from tests.chaos.run import run


def main() -> None:
    """One run after the other, each by a seed of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first run; drawn and printed if not given")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which faults come")
    parser.add_argument("--trainers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    for seed in range(first, first + options.runs):
        run(seed, options.seconds, options.trainers)


if __name__ == "__main__":
    main()
