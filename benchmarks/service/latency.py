"""NextBatch and ReportRollouts at one client, interleaved with the floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.service.process import Server
from benchmarks.service.server import FLOOR
from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc

CHUNK = 8192
_BLOCK_ROUNDS = 10
_BLOCK_PAUSE_SECONDS = 0.02


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


def _report(
    curriculum: str,
    request_id: str,
    batch: pb.Batch,
    counts: Sequence[int],
    rates: NDArray[np.float64],
    rng: np.random.Generator,
) -> pb.ReportRolloutsRequest:
    """Rewards for `counts` rollouts of each prompt of the batch."""
    rows = [int(id_[7:]) % len(rates) for id_ in batch.prompt_ids]
    chances = np.repeat(rates[rows], counts)
    return pb.ReportRolloutsRequest(
        curriculum_id=curriculum,
        request_id=request_id,
        lease_id=batch.lease_id,
        prompt_ids=batch.prompt_ids,
        rollout_counts=counts,
        rewards=(rng.random(len(chances)) < chances).astype(float).tolist(),
    )


def _finish(
    stub: curriculum_pb2_grpc.CurriculumServiceStub,
    report: pb.ReportRolloutsRequest,
    directives: pb.Directives,
    rates: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Does as the service says until every prompt is done; not timed, as the first round is the largest."""
    number = 0
    while any(action == pb.ACTION_SAMPLE_MORE for action in directives.actions):
        number += 1
        batch = pb.Batch(lease_id=report.lease_id)
        counts = []
        for id_, action, rollouts in zip(
            directives.prompt_ids, directives.actions, directives.rollouts, strict=True
        ):
            if action == pb.ACTION_SAMPLE_MORE:
                batch.prompt_ids.append(id_)
                counts.append(rollouts)
        more = _report(report.curriculum_id, f"{report.request_id}.{number}", batch, counts, rates, rng)
        more.policy_version = report.policy_version
        directives = stub.ReportRollouts(more).directives


def measure(
    server: Server,
    curriculum: str,
    batch: int,
    group: int,
    rounds: int,
    think_seconds: float,
    seed: int = 0,
    settle_seconds: float = 0.3,
) -> dict[str, Any]:
    """Blocks of ten rounds of next batch and report, each followed by as many calls of the floor.

    Before each call, those of the floor too, the client waits `think_seconds`. With 0 it asks again at once,
    which no trainer does, and the service has no time to draw ahead; what it drew in the pause between
    blocks is not counted. The policy advances before every block, and the service then weighs the whole pool
    anew in a thread: the client waits `settle_seconds` for it, as in training, where a step takes longer.

    Rewards come from fixed pass rates of mixed difficulty, so that the posterior gets its usual shape.
    """
    rng = np.random.default_rng(seed)
    first_version = 1 + 100_000 * seed  # Later measurements of one curriculum go on with a newer policy.
    channel, stub = server.stub()
    times: dict[str, list[float]] = {name: [] for name in ("next", "next_floor", "report", "report_floor")}
    rates = rng.beta(0.3, 0.6, 1_000_003)
    floors: dict[str, Callable[[], Any]] = {
        "next_floor": lambda: stub.NextBatch(pb.NextBatchRequest(curriculum_id=FLOOR)),
        "report_floor": lambda: stub.ReportRollouts(pb.ReportRolloutsRequest(curriculum_id=FLOOR)),
    }
    for block in range(rounds // _BLOCK_ROUNDS + 2):
        counted = block >= 2
        stub.AdvancePolicy(
            pb.AdvancePolicyRequest(
                curriculum_id=curriculum, request_id=f"a{seed}-{block}", policy_version=first_version + block
            )
        )
        time.sleep(settle_seconds)
        for number in range(_BLOCK_ROUNDS):
            name = f"{seed}-{block}-{number}"
            request = pb.NextBatchRequest(
                curriculum_id=curriculum,
                request_id=f"n{name}",
                batch_size=batch,
                rollout_budget=batch * group,
                policy_version=first_version + block,
            )
            next_seconds, answer = _timed(lambda request=request: stub.NextBatch(request), think_seconds)
            report = _report(curriculum, f"r{name}", answer.batch, answer.batch.quotas, rates, rng)
            report.policy_version = first_version + block
            report_seconds, answered = _timed(
                lambda report=report: stub.ReportRollouts(report), think_seconds
            )
            _finish(stub, report, answered.directives, rates, rng)
            if counted and (think_seconds or number):
                times["next"].append(next_seconds)
                times["report"].append(report_seconds)
        time.sleep(_BLOCK_PAUSE_SECONDS)
        for _ in range(_BLOCK_ROUNDS):
            for floor, call in floors.items():
                seconds, _answer = _timed(call, think_seconds)
                if counted:
                    times[floor].append(seconds)
        time.sleep(_BLOCK_PAUSE_SECONDS)
    channel.close()
    result: dict[str, Any] = {name: percentiles(values) for name, values in times.items()}
    for name in ("next", "report"):
        floor = result[f"{name}_floor"]["p50_ms"]
        result[f"{name}_p50_ratio"] = round(result[name]["p50_ms"] / floor, 2)
        result[f"{name}_p99_ratio"] = round(result[name]["p99_ms"] / floor, 2)
    return result
