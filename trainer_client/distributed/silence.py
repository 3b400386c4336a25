"""What the processes other than rank 0 write and show: nothing."""

from collections.abc import Mapping

from trainer_client.evaluation import Evaluation
from trainer_client.metrics import Metrics, MetricsLog


class SilentLog(MetricsLog):
    """Keeps no metrics: rank 0's are those of the run."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def write_sample(self, step: int, sample: Mapping[str, object]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class SilentReporter:
    """Shows nothing."""

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        """Nothing."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
