"""Are health checks answered while the service works hard? One phase after the other, a prober beside each.

The prober is a process of its own: it must not wait for the load's interpreter lock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.service import load
from benchmarks.service.latency import add_prompts, percentiles
from benchmarks.service.process import Server
from curriculum.v1 import curriculum_pb2 as pb

_PAUSE_SECONDS = 0.01


@contextmanager
def _probing(address: str, into: dict[str, Any]) -> Iterator[None]:
    prober = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service.responsiveness", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert prober.stdout is not None
    assert prober.stdin is not None
    prober.stdout.readline()
    try:
        yield
    finally:
        prober.stdin.close()
        into.update(json.loads(prober.stdout.readline()))
        prober.wait()


def _phase(server: Server, work: Callable[[], Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    server.loop_figures()
    with _probing(server.address, result):
        started = time.perf_counter()
        work()
        result["seconds"] = round(time.perf_counter() - started, 2)
    return result | server.loop_figures()


def _every(seconds: float, times: int, call: Callable[[int], Any]) -> None:
    for number in range(times):
        started = time.perf_counter()
        call(number)
        time.sleep(max(0.0, seconds - (time.perf_counter() - started)))


def measure(server: Server, prompts: int, presets: list[str], seconds: float = 8.0) -> dict[str, Any]:
    """By phase: how long health checks took, and what the loop was kept by."""
    figures: dict[str, Any] = {}
    channel, stub = server.stub()

    def note(name: str, work: Callable[[], Any]) -> None:
        figures[name] = _phase(server, work)
        print(f"{name:>32}: {figures[name]}", flush=True)

    note("idle", lambda: time.sleep(3))
    for preset in presets:
        name = f"r-{preset}"
        note(f"{preset}: adding prompts", lambda n=name, p=preset: add_prompts(server, n, p, prompts))
        note(f"{preset}: 16 trainers", lambda n=name: load.trainers(server, n, 16, seconds, run_name="many-"))
        note(f"{preset}: policy advances", lambda n=name: _advancing(server, stub, n, seconds))
        note(f"{preset}: summaries", lambda n=name: _every(0.1, 30, lambda _: _summary(stub, n)))
        note(f"{preset}: prompt pages", lambda n=name: _every(0.1, 30, lambda _: _page(stub, n)))
        note(
            f"{preset}: checkpoint",
            lambda n=name: stub.CreateCheckpoint(
                pb.CreateCheckpointRequest(curriculum_id=n, request_id="k", checkpoint_id="k")
            ),
        )
        note(
            f"{preset}: going back",
            lambda n=name: stub.RestoreCheckpoint(
                pb.RestoreCheckpointRequest(curriculum_id=n, request_id="back", checkpoint_id="k")
            ),
        )
        note(f"{preset}: first batch after", lambda n=name: _batch(stub, n, "after"))
        strategy = ParseDict({"preset": "mopps" if preset != "mopps" else "cures"}, pb.Strategy())
        note(
            f"{preset}: another strategy",
            lambda n=name, s=strategy: stub.UpdateCurriculum(
                pb.UpdateCurriculumRequest(curriculum_id=n, request_id="other", strategy=s)
            ),
        )
        note(
            f"{preset}: batches of it",
            lambda n=name: load.trainers(server, n, 4, seconds / 2, run_name="other-"),
        )
    channel.close()
    worst = max(figures.values(), key=lambda phase: phase["p99_ms"])
    figures["worst_p99_ms"] = worst["p99_ms"]
    return figures


def first_calls(server: Server, presets: list[str]) -> dict[str, Any]:
    """After a restart: each curriculum is loaded by the first call that needs it."""
    channel, stub = server.stub()
    figures = {}
    for preset in presets:
        name = f"{preset}: loading"
        figures[name] = _phase(server, lambda p=preset: _batch(stub, f"r-{p}", "cold"))
        print(f"{name:>32}: {figures[name]}", flush=True)
    channel.close()
    return figures


def _advancing(server: Server, stub: Any, name: str, seconds: float) -> None:
    trainer = threading.Thread(target=load.trainers, args=(server, name, 4, seconds, 64, "advancing-"))
    trainer.start()

    def advance(number: int) -> None:
        stub.AdvancePolicy(
            pb.AdvancePolicyRequest(
                curriculum_id=name, request_id=f"advance-{number}", policy_version=number + 1, kl=0.01
            )
        )

    _every(0.5, round(2 * seconds), advance)
    trainer.join()


def _summary(stub: Any, name: str) -> None:
    stub.GetSummary(pb.GetSummaryRequest(curriculum_id=name))


def _page(stub: Any, name: str) -> None:
    where = pb.PromptFilter(min_pass_rate=0.9, id_contains="99")
    stub.ListPromptStates(pb.ListPromptStatesRequest(curriculum_id=name, filter=where, page_size=100))


def _batch(stub: Any, name: str, request_id: str) -> None:
    stub.NextBatch(pb.NextBatchRequest(curriculum_id=name, request_id=request_id, batch_size=512))


def _probe(address: str) -> None:
    """The prober's process: asks until its input ends, then prints how long the answers took."""
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    times = []
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())
        print("probing", flush=True)
        while not done.is_set() or not times:
            started = time.perf_counter()
            stub.Check(health_pb2.HealthCheckRequest())
            times.append(time.perf_counter() - started)
            time.sleep(_PAUSE_SECONDS)
    late = sum(seconds > 0.05 for seconds in times)
    print(
        json.dumps(
            percentiles(times)
            | {"max_ms": round(1e3 * max(times), 2), "checks": len(times), "over_50_ms": late}
        )
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.service.responsiveness")
    arguments.add_argument("address")
    _probe(arguments.parse_args().address)
