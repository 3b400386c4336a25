"""`python -m benchmarks service`: latency, throughput, memory and start-up of the whole service."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from benchmarks.environment import environment
from benchmarks.service import latency, load, responsiveness
from benchmarks.service.process import Server, running
from curriculum.v1 import curriculum_pb2 as pb

BASELINE = Path(__file__).with_name("baseline.json")


def raw_xadd(server: Server, size_bytes: int, rounds: int = 300) -> dict[str, float]:
    """One client, one command at a time."""
    client = redis.Redis.from_url(server.redis_url)
    payload = b"x" * size_bytes
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        client.xadd("benchmark", {"e": payload})
        times.append(time.perf_counter() - started)
    client.delete("benchmark")
    return latency.percentiles(times)


def redis_bytes(server: Server) -> int:
    """Memory of the data set."""
    return int(redis.Redis.from_url(server.redis_url).info("memory")["used_memory_dataset"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks service", description=__doc__)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--presets", default="uniform-grpo,cures,frontier")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument(
        "--think-milliseconds", type=float, default=5.0, help="pause before each call of the paced client"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of the 64-trainer load")
    parser.add_argument(
        "--responsiveness",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure health checks under load, too",
    )
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--save-baseline", action="store_true", help=f"write them to {BASELINE.name}")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "environment": environment(),
        "prompts": options.prompts,
        "think_milliseconds": options.think_milliseconds,
        "batch": options.batch,
    }
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder) / "data") as server:
            empty = server.resident_bytes()
            figures["raw_xadd_16KB"] = raw_xadd(server, 16_384)
            for number, preset in enumerate(options.presets.split(",")):
                before = redis_bytes(server)
                seconds = latency.add_prompts(server, preset, preset, options.prompts)
                result: dict[str, Any] = {"add_prompts_seconds": round(seconds, 2)}
                paces = {
                    "paced": (options.think_milliseconds / 1000, 0.3),
                    "back_to_back": (0.0, 0.3),
                    "back_to_back_while_weighing": (0.0, 0.0),
                }
                for seed, (pace, (think, settle)) in enumerate(paces.items()):
                    measured = latency.measure(
                        server, preset, options.batch, 8, options.rounds, think, seed, settle
                    )
                    result[pace] = measured
                    print(
                        f"{preset:>14}, {pace}: NextBatch({options.batch}) {measured['next']['p50_ms']} ms"
                        f" = {measured['next_p50_ratio']}x an empty RPC, {measured['next_p50_durable_ratio']}x"
                        f" RPC and XADD (p99 {measured['next_p99_durable_ratio']}x);"
                        f" ReportRollouts {measured['report']['p50_ms']} ms = {measured['report_p50_ratio']}x,"
                        f" {measured['report_p50_durable_ratio']}x"
                        f" (p99 {measured['report_p99_durable_ratio']}x)",
                        flush=True,
                    )
                if number == 0:
                    result["replica_bytes_per_prompt"] = round(
                        (server.resident_bytes() - empty) / options.prompts, 1
                    )
                result["redis_bytes_per_prompt"] = round((redis_bytes(server) - before) / options.prompts, 1)
                figures[preset] = result
            preset = options.presets.split(",")[0]
            for name, step_seconds in (("trainers", 0.0), ("trainers_with_steps_of_1s", 1.0)):
                figures[name] = load.trainers(server, preset, 64, options.seconds, step_seconds=step_seconds)
                print(f"  64 trainers, steps of {step_seconds} s: {figures[name]}", flush=True)
            figures["stream"] = load.stream(server, preset, 500)
            print(f"       stream: {figures['stream']['rewards_per_second']:,} rewards/s", flush=True)
        presets = options.presets.split(",")
        if options.responsiveness:
            with running(Path(folder) / "responsive") as server:
                figures["responsiveness"] = responsiveness.measure(server, options.prompts, presets)
            with running(Path(folder) / "responsive") as server:
                figures["responsiveness"] |= responsiveness.first_calls(server, presets)
        started = time.perf_counter()
        with running(Path(folder) / "data") as server:
            ready = time.perf_counter() - started
            channel, stub = server.stub()
            for preset in options.presets.split(","):
                asked = time.perf_counter()
                stub.NextBatch(
                    pb.NextBatchRequest(curriculum_id=preset, request_id="cold", batch_size=options.batch)
                )
                figures[preset]["cold_first_batch_seconds"] = round(time.perf_counter() - asked, 3)
            channel.close()
        figures["restart_to_ready_seconds"] = round(ready, 3)
        started = time.perf_counter()
        with running(Path(folder) / "new") as server:
            channel, stub = server.stub()
            stub.ListCurricula(pb.ListCurriculaRequest())
            figures["start_to_first_answer_seconds"] = round(time.perf_counter() - started, 3)
            channel.close()
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    if options.save_baseline:
        BASELINE.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
