"""NextBatch and ReportRollouts at one client, interleaved with the floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.service.process import Server
from benchmarks.service.server import FLOOR
from curriculum.v1 import curriculum_pb2 as pb

CHUNK = 8192


def add_prompts(server: Server, curriculum: str, preset: str, prompts: int, **strategy: Any) -> float:
    """Creates a curriculum with ids of 16 bytes and 50 clusters; seconds that took."""
    channel, stub = server.stub()
    strategy_message = pb.Strategy(preset=preset)
    # Draws are measured, not the cold start with which iterations would begin.
    strategy_message.iterations.SetInParent()
    for name, value in strategy.items():
        getattr(strategy_message, name).update(value)
    stub.CreateCurriculum(
        pb.CreateCurriculumRequest(request_id="create", curriculum_id=curriculum, strategy=strategy_message)
    )

    def chunks() -> Iterator[pb.AddPromptsRequest]:
        for start in range(0, prompts, CHUNK):
            numbers = range(start, min(start + CHUNK, prompts))
            yield pb.AddPromptsRequest(
                curriculum_id=curriculum,
                request_id="add",
                prompt_ids=[f"prompt-{i:09d}" for i in numbers],
                clusters=[f"cluster-{i % 50}" for i in numbers],
            )

    started = time.perf_counter()
    stub.AddPrompts(chunks())
    channel.close()
    return time.perf_counter() - started


def _timed(call: Callable[[], Any], think_seconds: float) -> tuple[float, Any]:
    time.sleep(think_seconds)
    started = time.perf_counter()
    answer = call()
    return time.perf_counter() - started, answer


def percentiles(seconds: list[float]) -> dict[str, float]:
    values = np.array(seconds) * 1e3
    return {
        "p50_ms": round(float(np.percentile(values, 50)), 3),
        "p99_ms": round(float(np.percentile(values, 99)), 3),
    }


def measure(
    server: Server, curriculum: str, batch: int, group: int, rounds: int, think_seconds: float, seed: int = 0
) -> dict[str, Any]:
    """Rounds of next batch, floor, report, floor; the policy advances every 10 rounds.

    Before each call, those of the floor too, the client waits `think_seconds`: a trainer that never
    rolls out or trains, and asks again at once, does not exist.

    Rewards come from fixed pass rates of mixed difficulty, so that the posterior gets its usual shape.
    """
    rng = np.random.default_rng(seed)
    channel, stub = server.stub()
    times: dict[str, list[float]] = {name: [] for name in ("next", "next_floor", "report", "report_floor")}
    rates = rng.beta(0.3, 0.6, 1_000_003)
    for number in range(rounds + 20):
        version = number // 10
        took: dict[str, float] = {}
        took["next"], answer = _timed(
            lambda number=number, version=version: stub.NextBatch(
                pb.NextBatchRequest(
                    curriculum_id=curriculum,
                    request_id=f"{seed}-n{number}",
                    batch_size=batch,
                    rollout_budget=batch * group,
                    policy_version=version,
                )
            ),
            think_seconds,
        )
        took["next_floor"], _ = _timed(
            lambda: stub.NextBatch(pb.NextBatchRequest(curriculum_id=FLOOR)), think_seconds
        )
        granted = answer.batch
        quotas = np.array(granted.quotas)
        rows = [int(id_[7:]) % len(rates) for id_ in granted.prompt_ids]
        report = pb.ReportRolloutsRequest(
            curriculum_id=curriculum,
            request_id=f"{seed}-r{number}",
            lease_id=granted.lease_id,
            prompt_ids=granted.prompt_ids,
            rollout_counts=granted.quotas,
            rewards=(rng.random(quotas.sum()) < np.repeat(rates[rows], quotas)).astype(float).tolist(),
            policy_version=version,
        )
        took["report"], _ = _timed(lambda report=report: stub.ReportRollouts(report), think_seconds)
        took["report_floor"], _ = _timed(
            lambda: stub.ReportRollouts(pb.ReportRolloutsRequest(curriculum_id=FLOOR)), think_seconds
        )
        if number >= 20:
            for name, seconds in took.items():
                times[name].append(seconds)
    channel.close()
    result: dict[str, Any] = {name: percentiles(values) for name, values in times.items()}
    for name in ("next", "report"):
        floor = result[f"{name}_floor"]["p50_ms"]
        result[f"{name}_p50_ratio"] = round(result[name]["p50_ms"] / floor, 2)
        result[f"{name}_p99_ratio"] = round(result[name]["p99_ms"] / floor, 2)
    return result
