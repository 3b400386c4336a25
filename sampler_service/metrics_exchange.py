"""Figures of all workers through any of them: each answers on a unix socket, whoever is asked gathers.

Without it a scrape of the shared port would read another worker's counters each time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["MetricsExchange"]

_TIMEOUT_SECONDS: Final = 2.0
_LABEL: Final = "worker"


class MetricsExchange:
    """One worker's socket in a directory that all workers know.

    Args:
        directory: short enough for the path of a unix socket.
        worker: our number.
        registry: our figures.
    """

    def __init__(self, directory: Path, worker: int, registry: CollectorRegistry) -> None:
        self._directory = directory
        self._path = directory / f"{worker}.sock"
        self._worker = worker
        self._registry = registry
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answers the others from now on."""
        # Of the process that had our number before and was killed.
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, self._path)

    async def stop(self) -> None:
        """Answers no more."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def gather(self) -> CollectorRegistry:
        """The figures of every worker that answers, told apart by the label `worker`."""
        others = [path for path in sorted(self._directory.glob("*.sock")) if path != self._path]
        texts = dict(
            zip((int(path.stem) for path in others), await asyncio.gather(*map(_ask, others)), strict=True)
        )
        texts[self._worker] = generate_latest(self._registry).decode()
        gathered = CollectorRegistry(auto_describe=False)
        gathered.register(_Labelled(texts))
        return gathered

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(generate_latest(self._registry))
            await writer.drain()
        writer.close()


async def _ask(path: Path) -> str:
    """What a worker says of itself; nothing if it does not answer: it has ended, or hangs."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await reader.read(-1)).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""


class _Labelled(Collector):
    """The families of several processes, each sample with its process's number."""

    def __init__(self, texts: dict[int, str]) -> None:
        self._texts = texts

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when it is collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every family once."""
        merged: dict[str, Metric] = {}
        for worker, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                into = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                for sample in family.samples:
                    into.samples.append(sample._replace(labels={**sample.labels, _LABEL: str(worker)}))
        return merged.values()
