"""What the log costs over Redis itself: ratios to a raw XADD of the same bytes, in the same run.

python benchmarks/log/append_and_snapshot.py [--json FILE] [--rows N] [--appendfsync everysec|always]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from sampler_service.log import EmbeddedServer, LogClient, RedisSettings

PAYLOAD_BYTES = 20_000
CALLS = 1_000
CONCURRENT = 64


async def milliseconds(call: Callable[[], Awaitable[object]], times: int) -> list[float]:
    spent = []
    for _ in range(times):
        before = time.perf_counter()
        await call()
        spent.append((time.perf_counter() - before) * 1e3)
    return spent


async def measure_append(client: LogClient, payload: bytes) -> dict[str, float]:
    log = client.log("append")
    position = await log.create(b"created")

    async def raw() -> None:
        await client.call(lambda redis: redis.execute_command("XADD", "raw", "*", "e", payload))

    async def append() -> None:
        nonlocal position
        position = (await log.append([payload], after=position)).own[-1]

    await milliseconds(raw, 50)
    await milliseconds(append, 50)
    raw_ms, append_ms = [], []
    for _ in range(CALLS // 50):
        raw_ms += await milliseconds(raw, 50)
        append_ms += await milliseconds(append, 50)
    return {
        "raw_xadd_p50_ms": statistics.median(raw_ms),
        "append_p50_ms": statistics.median(append_ms),
        "append_p99_ms": statistics.quantiles(append_ms, n=100)[98],
        "append_over_raw": statistics.median(append_ms) / statistics.median(raw_ms),
    }


async def measure_group(client: LogClient, payload: bytes) -> dict[str, float]:
    """64 callers' payloads in one append, against 64 raw XADDs of 64 callers at once."""
    log = client.log("group")
    position = await log.create(b"created")

    async def raw() -> None:
        one = lambda redis: redis.execute_command("XADD", "raw64", "*", "e", payload)  # noqa: E731
        await asyncio.gather(*(client.call(one) for _ in range(CONCURRENT)))

    async def grouped() -> None:
        nonlocal position
        position = (await log.append([payload] * CONCURRENT, after=position)).own[-1]

    raw_ms, grouped_ms = [], []
    for _ in range(10):
        raw_ms += await milliseconds(raw, 3)
        grouped_ms += await milliseconds(grouped, 3)
    return {
        "raw_64_p50_ms": statistics.median(raw_ms),
        "grouped_64_p50_ms": statistics.median(grouped_ms),
        "grouped_over_raw": statistics.median(grouped_ms) / statistics.median(raw_ms),
    }


async def measure_snapshot(client: LogClient, rows: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        f"float_{index}": rng.random(rows, dtype=np.float32) for index in range(9)
    }
    columns["visits"] = rng.integers(0, 50, rows, dtype=np.int32)
    columns["cluster"] = rng.integers(0, 20, rows, dtype=np.int32)
    columns["ids"] = rng.integers(0, 256, rows * 16, dtype=np.uint8)
    size = sum(column.nbytes for column in columns.values())
    log = client.log("snapshot")
    first = await log.create(b"created")
    store = client.snapshots("snapshot")
    await store.lock.acquire("benchmark", 600)

    block = rng.bytes(64 * 1024)
    before = time.perf_counter()
    for _ in range(-(-size // len(block))):
        await client.call(lambda redis: redis.execute_command("XADD", "rawblocks", "*", "e", block))
    raw_seconds = time.perf_counter() - before
    await client.call(lambda redis: redis.unlink("rawblocks"))

    before = time.perf_counter()
    await store.save(first, columns)
    save_seconds = time.perf_counter() - before
    for name in ("float_0", "visits"):
        columns[name][rng.integers(0, rows, 512)] += 1
    second = (await log.append([b"x"], after=first)).own[0]
    before = time.perf_counter()
    await store.save(second, columns)
    again_seconds = time.perf_counter() - before
    before = time.perf_counter()
    await store.load()
    load_seconds = time.perf_counter() - before
    stored = await client.call(
        lambda redis: redis.execute_command("MEMORY", "USAGE", client.keys("snapshot").blocks, "SAMPLES", 0)
    )
    return {
        "rows": rows,
        "megabytes": size / 1e6,
        "raw_xadd_of_the_blocks_seconds": raw_seconds,
        "save_seconds": save_seconds,
        "save_over_raw": save_seconds / raw_seconds,
        "save_after_512_rows_changed_seconds": again_seconds,
        "load_seconds": load_seconds,
        "load_over_raw": load_seconds / raw_seconds,
        "server_bytes_per_row_two_snapshots": stored / rows,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--appendfsync", choices=["everysec", "always"], default="everysec")
    arguments = parser.parse_args()
    payload = np.random.default_rng(0).bytes(PAYLOAD_BYTES)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        server = EmbeddedServer(directory, appendfsync=arguments.appendfsync)
        before = time.perf_counter()
        await server.start()
        start_seconds = time.perf_counter() - before
        try:
            async with LogClient(RedisSettings(url=server.url)) as client:
                results = {
                    "environment": {
                        "python": platform.python_version(),
                        "cores": os.cpu_count(),
                        "appendfsync": arguments.appendfsync,
                    },
                    "embedded_start_seconds": start_seconds,
                    "append_20_kb": await measure_append(client, payload),
                    "append_64_at_once": await measure_group(client, payload),
                    "snapshot": await measure_snapshot(client, arguments.rows),
                }
        finally:
            await server.stop()
    print(json.dumps(results, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
