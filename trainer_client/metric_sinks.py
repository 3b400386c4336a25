"""Where metrics go besides the run's own file: TensorBoard, Weights & Biases."""

import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainer_client.trainer_errors import ConfigError


class MetricsSink(Protocol):
    """Takes the metrics of a step; a step may come several times, with different names."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        ...

    def close(self) -> None:
        """Writes out what is left."""
        ...


class TensorBoardSink:
    """TensorBoard's events. What a run wrote after `first_step` before it was resumed is purged."""

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step + 1 if first_step else None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is left."""
        self._writer.close()


class WandbSink:
    """Weights & Biases. Raises ConfigError when the package is not installed.

    The run's id is kept in its folder, so that a resumed run goes on in the same place.
    """

    def __init__(
        self,
        project: str,
        name: str,
        directory: Path,
        settings: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "metrics.wandb_project is set but wandb is not installed; pip install wandb, or leave it empty"
            ) from error
        directory.mkdir(parents=True, exist_ok=True)
        kept = directory / "wandb-id"
        if not kept.exists():
            kept.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        self._run: Any = wandb.init(
            project=project,
            name=name,
            id=kept.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(directory),
            config=dict(settings),
            **arguments,
        )
        # Its own step must only grow; ours is written again after a resume.
        self._run.define_metric("train_step")
        self._run.define_metric("*", step_metric="train_step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._run.log({"train_step": step, **finite})

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
