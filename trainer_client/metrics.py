"""Metrics of a run: one JSON line per step, whatever else is to have them, and a log of samples."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from trainer_client.disk import writing
from trainer_client.metric_sinks import MetricsSink

Metrics = dict[str, float]


class MetricsLog:
    """Writes `metrics.jsonl` and `samples.jsonl` into a run's folder, and metrics to the sinks.

    A resumed run goes on in the same files; lines of steps that are done again are removed first.
    """

    def __init__(self, directory: Path, *, first_step: int = 0, sinks: Sequence[MetricsSink] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._metrics = _open_from(directory / "metrics.jsonl", first_step)
        self._samples = _open_from(directory / "samples.jsonl", first_step)
        self._sinks = tuple(sinks)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step. Values that are not finite are null in the JSON."""
        row = {"step": step, "time": round(time.time(), 3)}
        row.update({name: _rounded(value) for name, value in metrics.items()})
        _write_line(self._metrics, row)
        for sink in self._sinks:
            sink.write(step, metrics)

    def write_sample(self, step: int, sample: Mapping[str, object]) -> None:
        """Adds one completion."""
        _write_line(self._samples, {"step": step, **sample})

    def close(self) -> None:
        """Closes the files."""
        for file in (self._metrics, self._samples):
            # What a full disk did not take has been said when it was written.
            with contextlib.suppress(OSError):
                file.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a torn last line is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _open_from(path: Path, first_step: int) -> TextIO:
    if path.exists():
        kept = [row for row in read_metrics(path) if row.get("step", 0) < first_step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _write_line(file: TextIO, row: Mapping[str, object]) -> None:
    with writing(Path(file.name), "make room, then go on with --resume"):
        file.write(json.dumps(row) + "\n")
        file.flush()


def _rounded(value: float) -> Any:
    return float(f"{value:.6g}") if math.isfinite(value) else None
