"""`python -m benchmarks dashboard`: the API's answers at a million prompts, and the first paint in Chromium.

The server's time of an answer is the processor time that its process spends on it, threads included: on a busy
machine the wall clock tells more about the neighbours. Both are kept, and those of `/healthz`, which does nothing, as
the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import numpy as np
from playwright.async_api import Browser, async_playwright

from benchmarks.environment import environment
from benchmarks.service.latency import add_prompts
from benchmarks.service.process import Server
from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from tests.browser.conftest import FLAGS, find_chromium
from tests.service_process import service_process

BASELINE = Path(__file__).with_name("baseline.json")
PAINTED = """() => new Promise(done => new PerformanceObserver(
  list => done(list.getEntriesByName('first-contentful-paint')[0]?.startTime)
).observe({type: 'paint', buffered: true}))"""
DRAWN = "() => document.querySelectorAll('[data-chart] canvas').length >= 10"


def train(address: str, name: str, steps: int, batch_size: int) -> None:
    """Steps of a trainer whose rewards are drawn by lot."""
    rng = np.random.default_rng(0)
    with grpc.insecure_channel(address) as channel:
        stub = CurriculumServiceStub(channel)
        for step in range(steps):
            batch = stub.NextBatch(
                pb.NextBatchRequest(
                    curriculum_id=name, request_id=f"b{step}", batch_size=batch_size, policy_version=step
                )
            ).batch
            rewards = rng.random(sum(batch.quotas)) < rng.beta(0.7, 0.7, len(batch.quotas)).repeat(
                batch.quotas
            )
            stub.ReportRollouts(
                pb.ReportRolloutsRequest(
                    curriculum_id=name,
                    request_id=f"r{step}",
                    lease_id=batch.lease_id,
                    prompt_ids=batch.prompt_ids,
                    rollout_counts=batch.quotas,
                    rewards=rewards.astype(float),
                    policy_version=step,
                )
            )


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def answers(url: str, pid: int, name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds per kind of answer: of the processor, and of the wall clock."""
    api = f"/api/v1/curricula/{name}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        busiest = (
            await http.get(f"{api}/prompts", params={"order_by": "visits desc", "page_size": 1})
        ).json()
        prompt = quote(busiest["prompt_ids"][0], safe="")
        paths = {
            "healthz (the floor)": "/healthz",
            "curricula": "/api/v1/curricula",
            "summary": f"{api}/summary?bins=20",
            "prompts, first page": f"{api}/prompts?page_size=25",
            "prompts, by pass rate": f"{api}/prompts?page_size=25&order_by=pass_rate",
            "prompts, containing a text": f"{api}/prompts?page_size=25&contains=00999",
            "one prompt's history": f"{api}/prompt-history?prompt_id={prompt}",
        }
        figures: dict[str, Any] = {}
        for what, path in paths.items():
            seconds = []
            await http.get(path)  # Warms up.
            before = _processor_seconds(pid)
            for _ in range(rounds):
                started = time.perf_counter()
                answer = await http.get(path)
                answer.raise_for_status()
                seconds.append(time.perf_counter() - started)
            spent = (_processor_seconds(pid) - before) / rounds
            values = np.array(seconds) * 1e3
            figures[what] = {
                "processor_ms": round(1e3 * spent, 2),
                "p50_ms": round(float(np.median(values)), 2),
                "p95_ms": round(float(np.percentile(values, 95)), 2),
                "bytes": len(answer.content),
            }
            print(f"{what:<28} {json.dumps(figures[what])}", flush=True)
    return figures


async def paint(browser: Browser, address: str, rounds: int) -> dict[str, float]:
    """From the navigation to the first content on the screen, and to all charts drawn; a new profile each."""
    first, drawn = [], []
    for _ in range(rounds):
        context = await browser.new_context(viewport={"width": 1360, "height": 900})
        page = await context.new_page()
        started = time.perf_counter()
        await page.goto(address)
        await page.wait_for_function(DRAWN)
        drawn.append((time.perf_counter() - started) * 1e3)
        first.append(float(await page.evaluate(PAINTED)))
        await context.close()
    figures = {
        "first_paint_p50_ms": round(float(np.median(first)), 1),
        "first_paint_max_ms": round(max(first), 1),
        "all_charts_p50_ms": round(float(np.median(drawn)), 1),
        "all_charts_max_ms": round(max(drawn), 1),
    }
    print(f"{'in Chromium':<28} {json.dumps(figures)}", flush=True)
    return figures


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, of a service process of its own."""
    with service_process("--data-dir", str(folder / "data"), log=folder / "log") as service:
        url = f"http://{service.http}/"
        server = Server(service.target, "", service.process)
        await asyncio.to_thread(add_prompts, server, "large", options.preset, options.prompts)
        await asyncio.to_thread(train, service.target, "large", options.steps, options.batch)
        await asyncio.sleep(3)  # Weights and snapshots are made in the background.
        figures: dict[str, Any] = {
            "answers": await answers(url, service.process.pid, "large", options.rounds)
        }
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
            figures["browser"] = await paint(browser, f"{url}c/large", max(5, options.rounds // 4))
            await browser.close()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks dashboard", description=__doc__)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--preset", default="frontier")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--save", action="store_true", help="Keep the figures as the baseline.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(options, Path(folder)))
    kept = {name: value for name, value in vars(options).items() if name != "save"}
    if options.save:
        BASELINE.write_text(
            json.dumps({"environment": environment(), "options": kept, **figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
