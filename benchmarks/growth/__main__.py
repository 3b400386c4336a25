"""`python -m benchmarks growth`: the service's cost as pool, batch and replicas grow."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.growth import measures
from benchmarks.growth.connections import of_connections
from benchmarks.growth.presets import BAR_MILLISECONDS, of_presets
from benchmarks.growth.workers import of_workers
from benchmarks.service import latency
from benchmarks.service.process import running

BASELINE = Path(__file__).with_name("baseline.json")


def _say(what: str, figures: dict[str, Any]) -> None:
    print(f"{what:<28} {json.dumps(figures)}", flush=True)


def _numbers(text: str) -> list[int]:
    return [int(float(number)) for number in text.split(",") if number]


def pool_sizes(options: argparse.Namespace) -> dict[str, Any]:
    """Latency, memory and cold start, each size in a service of its own."""
    figures: dict[str, Any] = {}
    for prompts in _numbers(options.prompts):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures[str(prompts)] = measures.of_pool(Path(folder) / "data", prompts, options)
        _say(f"N = {prompts:,}", figures[str(prompts)])
    return figures


def sizes_in_turn(options: argparse.Namespace) -> dict[str, Any]:
    """What a larger pool costs, all sizes at the same time."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measures.of_sizes_in_turn(Path(folder), _numbers(options.prompts), 15, options)
    _say("sizes in turn", figures)
    return figures


def batches_and_methods(options: argparse.Namespace) -> dict[str, Any]:
    """Batch sizes under `cures`, and Thompson sampling over everything and over candidates."""
    figures: dict[str, Any] = {"prompts": options.method_prompts, "batches": {}, "methods": {}}
    prompts, think = options.method_prompts, options.think_milliseconds / 1000
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "data") as server:
        latency.add_prompts(server, "batches", "cures", prompts)
        for number, batch in enumerate(_numbers(options.batches)):
            figures["batches"][str(batch)] = latency.measure(
                server, "batches", batch, 8, options.rounds, think, seed=number
            )
            _say(f"B = {batch}", figures["batches"][str(batch)])
        for name, candidates in (("thompson, all", 0), ("thompson, 16 candidates each", 16)):
            latency.add_prompts(
                server,
                name,
                "uniform-grpo",
                prompts,
                proposal={"thompson": {"objective": "target", "candidates_per_prompt": candidates}},
            )
            figures["methods"][name] = latency.measure(
                server, name, options.batch, 8, max(options.rounds // 3, 10), think
            )
            _say(name, figures["methods"][name])
    return figures


def presets(options: argparse.Namespace) -> dict[str, Any]:
    """Every preset on 100,000 prompts, batches of 512."""
    figures: dict[str, Any] = {"prompts": 100_000, "batch": 512, "bar_milliseconds": BAR_MILLISECONDS}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "data") as server:
        for name, measured in of_presets(server, 100_000, 512, min(options.rounds, 30)):
            figures[name] = measured
            _say(name, measured)
    return figures


def replicas(options: argparse.Namespace) -> dict[str, Any]:
    """The same trainers on one process and on several, all on one log."""
    figures: dict[str, Any] = {"prompts": options.method_prompts}
    for count in _numbers(options.replicas):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = [stack.enter_context(running(folder / "data"))]
            for _ in range(count - 1):
                servers.append(stack.enter_context(running(folder / "data", servers[0].redis_url)))
            figures[str(count)] = measures.of_trainers(servers, options.method_prompts, options)
        _say(f"{count} replicas", figures[str(count)])
    return figures


def workers(options: argparse.Namespace) -> dict[str, Any]:
    """The same trainers on `serve --workers N`, and what more workers bring."""
    figures: dict[str, Any] = {"prompts": options.method_prompts}
    for count in _numbers(options.workers):
        with tempfile.TemporaryDirectory() as folder:
            figures[str(count)] = of_workers(count, Path(folder) / "data", options)
        _say(f"{count} workers", figures[str(count)])
    first, *more = map(str, _numbers(options.workers))
    for count in more:
        for load in ("one_curriculum", "a_curriculum_each"):
            ratio = figures[count][load]["steps_per_second"] / figures[first][load]["steps_per_second"]
            figures[count][load][f"steps_over_{first}_workers"] = round(ratio, 2)
    return figures


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Processor time and log bytes per step of a trainer, for several batch sizes."""
    figures: dict[str, Any] = {"prompts": options.method_prompts}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "data") as first,
        running(Path(folder) / "data", first.redis_url) as second,
    ):
        for batch in _numbers(options.batches):
            figures[str(batch)] = measures.of_steps(
                first, second, options.method_prompts, batch, 2 * options.rounds
            )
            _say(f"steps of {batch}", figures[str(batch)])
    return figures


def connections(options: argparse.Namespace) -> dict[str, Any]:
    """One process and many trainers with steps of half a minute."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "data") as server:
        figures = of_connections(server, options.connections, options.method_prompts, 45.0)
    _say(f"{options.connections} connections", figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--prompts", default="1e5,1e6", help="sizes of the pool; 1e7 takes minutes and 5 GB")
    parser.add_argument("--presets", default="cures")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", default="64,256,512,1024,4096")
    parser.add_argument("--method-prompts", type=int, default=1_000_000)
    parser.add_argument("--replicas", default="1,2", help="numbers of service processes")
    parser.add_argument("--workers", default="1,2", help="of one service")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--trainers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0, help="of the load by many trainers")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--think-milliseconds", type=float, default=5.0)
    parser.add_argument("--parts", default="pool,turns,batch,replicas,workers,steps,connections,presets")
    parser.add_argument("--folder", type=Path, help="where the logs of the pools are kept meanwhile")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--save-baseline", action="store_true", help=f"put the measured parts into {BASELINE.name}"
    )
    options = parser.parse_args()
    parts = {
        "pool": pool_sizes,
        "turns": sizes_in_turn,
        "batch": batches_and_methods,
        "replicas": replicas,
        "workers": workers,
        "steps": steps,
        "connections": connections,
        "presets": presets,
    }
    figures: dict[str, Any] = {}
    for name in options.parts.split(","):
        started = time.perf_counter()
        figures[name] = {
            "environment": environment(),
            "think_milliseconds": options.think_milliseconds,
            **parts[name](options),
            "took_seconds": round(time.perf_counter() - started, 1),
        }
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    if options.save_baseline:
        known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        for name, measured in figures.items():
            known[name] = known.get(name, {}) | measured
        BASELINE.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
