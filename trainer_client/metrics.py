"""Metrics of a run: one JSON line per step, TensorBoard, and a log of samples."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

Metrics = dict[str, float]


class MetricsLog:
    """Writes `metrics.jsonl`, `samples.jsonl` and TensorBoard's events into a run's folder.

    A resumed run goes on in the same files; lines of steps that are done again are removed first.
    """

    def __init__(self, directory: Path, *, first_step: int = 0, tensorboard: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._metrics = _open_from(directory / "metrics.jsonl", first_step)
        self._samples = _open_from(directory / "samples.jsonl", first_step)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step. Values that are not finite are null in the JSON."""
        row = {"step": step, "time": round(time.time(), 3)}
        row.update({name: _rounded(value) for name, value in metrics.items()})
        _write_line(self._metrics, row)
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def write_sample(self, step: int, sample: Mapping[str, object]) -> None:
        """Adds one completion."""
        _write_line(self._samples, {"step": step, **sample})

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._samples.close()
        if self._writer is not None:
            self._writer.close()


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
    file.write(json.dumps(row) + "\n")
    file.flush()


def _rounded(value: float) -> Any:
    return float(f"{value:.6g}") if math.isfinite(value) else None
