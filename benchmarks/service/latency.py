"""NextBatch and ReportRollouts at one client, interleaved with the floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.service.process import Server
from benchmarks.service.server import FLOOR
from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc
from sampler_service.log.keys import CurriculumKeys

CHUNK = 8192
_BLOCK_ROUNDS = 10
_BLOCK_PAUSE_SECONDS = 0.02
_SCRATCH = "benchmark"


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


def _stream_of(log: redis.Redis, curriculum: str) -> bytes:
    """The stream that holds the curriculum's events, whatever the service's key prefix."""
    suffix = CurriculumKeys.of("", curriculum).log
    return next(key for key in log.scan_iter(count=1000) if key.decode().endswith(suffix))


def _last_payload(log: redis.Redis, stream: bytes) -> bytes:
    """The event that was appended last."""
    ((_revision, fields),) = log.xrevrange(stream, count=1)
    return bytes(next(iter(fields.values())))


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

    The floor has two parts: an RPC that does nothing and answers as much (`*_floor`), and a raw `XADD` of the
    bytes that the call appends to the log, by a client that does nothing else (`*_xadd`). A call that is durable
    when it is answered cannot do without either, so ratios are given to the RPC alone (`*_ratio`) and to the sum
    of both (`*_durable_ratio`).

    Before each call, those of the floor too, the client waits `think_seconds`. With 0 it asks again at once,
    which no trainer does, and the service has no time to draw ahead; what it drew in the pause between
    blocks is not counted. The policy advances before every block, and the service then weighs the whole pool
    anew in a thread: the client waits `settle_seconds` for it, as in training, where a step takes longer.

    Rewards come from fixed pass rates of mixed difficulty, so that the posterior gets its usual shape.
    """
    rng = np.random.default_rng(seed)
    first_version = 1 + 100_000 * seed  # Later measurements of one curriculum go on with a newer policy.
    channel, stub = server.stub()
    times: dict[str, list[float]] = {
        f"{call}{part}": [] for call in ("next", "report") for part in ("", "_floor", "_xadd")
    }
    rates = rng.beta(0.3, 0.6, 1_000_003)
    log = redis.Redis.from_url(server.redis_url)
    stream = _stream_of(log, curriculum)
    payloads: dict[str, bytes] = {}
    # One part after the other: as long must lie between two calls of the service as between those measured.
    floors: tuple[dict[str, Callable[[], Any]], ...] = (
        {
            "next_floor": lambda: stub.NextBatch(pb.NextBatchRequest(curriculum_id=FLOOR)),
            "report_floor": lambda: stub.ReportRollouts(pb.ReportRolloutsRequest(curriculum_id=FLOOR)),
        },
        {
            "next_xadd": lambda: log.xadd(_SCRATCH, {"e": payloads["next"]}),
            "report_xadd": lambda: log.xadd(_SCRATCH, {"e": payloads["report"]}),
        },
    )
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
            if not counted:
                payloads["next"] = _last_payload(log, stream)
            report = _report(curriculum, f"r{name}", answer.batch, answer.batch.quotas, rates, rng)
            report.policy_version = first_version + block
            report_seconds, answered = _timed(
                lambda report=report: stub.ReportRollouts(report), think_seconds
            )
            if not counted:
                payloads["report"] = _last_payload(log, stream)
            _finish(stub, report, answered.directives, rates, rng)
            if counted and (think_seconds or number):
                times["next"].append(next_seconds)
                times["report"].append(report_seconds)
        time.sleep(_BLOCK_PAUSE_SECONDS)
        for part in floors:
            for _ in range(_BLOCK_ROUNDS):
                for floor, call in part.items():
                    seconds, _answer = _timed(call, think_seconds)
                    if counted:
                        times[floor].append(seconds)
            time.sleep(_BLOCK_PAUSE_SECONDS)
    channel.close()
    log.delete(_SCRATCH)
    log.close()
    result: dict[str, Any] = {name: percentiles(values) for name, values in times.items()}
    for name in ("next", "report"):
        rpc = result[f"{name}_floor"]["p50_ms"]
        durable = rpc + result[f"{name}_xadd"]["p50_ms"]
        result[f"{name}_event_bytes"] = len(payloads[name])
        for percentile in ("p50", "p99"):
            taken = result[name][f"{percentile}_ms"]
            result[f"{name}_{percentile}_ratio"] = round(taken / rpc, 2)
            result[f"{name}_{percentile}_durable_ratio"] = round(taken / durable, 2)
    return result
