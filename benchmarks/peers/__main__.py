"""`python -m benchmarks peers`: the same draws and reports by this service and by what else one could build."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from benchmarks.peers.in_process import NumpyChoice, OurPool, PythonLists, TorchMultinomial
from benchmarks.peers.peer import Peer
from benchmarks.peers.redis_hashes import RedisRace, RedisScan
from benchmarks.peers.reverb_table import ReverbTable
from benchmarks.peers.whole_service import WholeService
from sampler_service.log import EmbeddedServer

BASELINE = Path(__file__).with_name("baseline.json")
GROUP = 8


def _milliseconds(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = call()
    took = 1e3 * (time.perf_counter() - started)
    # A peer in a process of its own tells the time itself.
    return (answer, answer) if isinstance(answer, float) else (took, answer)


@dataclass
class _Times:
    """What one peer took, in milliseconds."""

    peer: Peer
    fill_seconds: float
    draws: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        warm = len(self.draws) // 10
        return {
            "peer": self.peer.name,
            "law": self.peer.law,
            "fill_seconds": round(self.fill_seconds, 2),
            "rounds": len(self.draws),
            "draw_p50_ms": round(float(np.median(self.draws[warm:])), 3),
            "report_p50_ms": round(float(np.median(self.reports[warm:])), 3),
        }


def measure(
    kinds: list[Callable[[], Peer]], prompts: int, batch: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Medians. The peers take turns, so that what else the machine does hits all of them alike.

    A peer that has used its `seconds` up sits the other rounds out; two rounds it has at least.
    """
    rng = np.random.default_rng(0)
    all_times: list[_Times] = []
    for kind in kinds:
        peer = kind()
        started = time.perf_counter()
        peer.fill(prompts)
        all_times.append(_Times(peer, time.perf_counter() - started))
    for number in range(rounds):
        successes = rng.binomial(GROUP, rng.beta(0.3, 0.6, batch))
        for times in all_times:
            spent = (sum(times.draws) + sum(times.reports)) / 1e3
            if number >= 2 and spent > seconds:
                continue
            took, drawn = _milliseconds(partial(times.peer.draw, batch))
            times.draws.append(took)
            took, _ = _milliseconds(partial(times.peer.report, drawn, successes, GROUP))
            times.reports.append(took)
    for times in all_times:
        times.peer.close()
    results = [times.figures() for times in all_times]
    for result in results:
        for name in ("draw", "report"):
            result[f"{name}_over_service"] = round(result[f"{name}_p50_ms"] / results[0][f"{name}_p50_ms"], 3)
    return results


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        async with EmbeddedServer(folder) as server:
            kinds: list[Callable[[], Peer]] = [
                WholeService,
                OurPool,
                NumpyChoice,
                TorchMultinomial,
                PythonLists,
                lambda: RedisScan(server.url, database=0),
                lambda: RedisRace(server.url, database=1),
            ]
            if options.reverb_python:
                kinds.append(lambda: ReverbTable(options.reverb_python))
            for prompts in map(int, map(float, options.prompts.split(","))):
                results = await asyncio.to_thread(
                    measure, kinds, prompts, options.batch, options.rounds, options.seconds
                )
                figures[str(prompts)] = {
                    "environment": environment(),
                    "batch": options.batch,
                    "group": GROUP,
                    "peers": results,
                }
                for result in results:
                    print(
                        f"{prompts:>9,} {result['peer']:<40}"
                        f" draw {result['draw_p50_ms']:>10} ms ({result['draw_over_service']}x)"
                        f"   report {result['report_p50_ms']:>8} ms ({result['report_over_service']}x)"
                        f"   {result['rounds']} rounds",
                        flush=True,
                    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("--prompts", default="1e4,1e5,1e6", help="sizes of the pool")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=100, help="at most, per peer and size")
    parser.add_argument("--seconds", type=float, default=10.0, help="at most, per peer and size")
    parser.add_argument(
        "--reverb-python", help="Python of an environment with dm-reverb; without it that peer is left out"
    )
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--save-baseline", action="store_true", help=f"put the measured sizes into {BASELINE.name}"
    )
    options = parser.parse_args()
    figures = asyncio.run(_run(options))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    if options.save_baseline:
        known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        BASELINE.write_text(json.dumps(known | figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
