"""The workers of a running `serve --workers N`, as the kernel lists them (Linux)."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.service_process import ServiceProcess

_MARK = b"sampler_service.workers.worker"


def worker_pids(service: ServiceProcess) -> list[int]:
    """Process ids of the workers that live now."""
    pid = service.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in map(int, children):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if _MARK in command:
            found.append(child)
    return found


def wait_for_log(service: ServiceProcess, text: str, times: int = 1, timeout_seconds: float = 120.0) -> None:
    """Returns when the service has logged `text` so many times."""
    deadline = time.monotonic() + timeout_seconds
    while service.log.read_text().count(text) < times:
        assert time.monotonic() < deadline, f"{text!r} is not {times} times in:\n{service.log.read_text()}"
        time.sleep(0.02)


def calls_by_worker(service: ServiceProcess, method: str) -> dict[str, float]:
    """How many calls of a method each worker has begun: /metrics through whichever worker answers."""
    return {
        sample.labels["worker"]: sample.value
        for sample in _samples_of_all_workers(service)
        if sample.name == "grpc_server_started_total" and sample.labels["grpc_method"] == method
    }


def _samples_of_all_workers(service: ServiceProcess, timeout_seconds: float = 120.0) -> list[Sample]:
    """A scrape leaves a worker out that takes too long to answer: then there is another one."""
    workers = {str(number) for number in range(service.workers)}
    deadline = time.monotonic() + timeout_seconds
    while True:
        address = service.http.split(",")[0]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout_seconds) as answer:
            text = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        if {sample.labels["worker"] for sample in samples} == workers:
            return samples
        assert time.monotonic() < deadline, "a worker never tells its figures"
        time.sleep(0.1)
