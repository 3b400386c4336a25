"""Progress of a run in the terminal: a live bar where there is one, a line per step where not."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer_client.evaluation import Evaluation
from trainer_client.metrics import Metrics


class ProgressView:
    """A `Reporter` on a rich console. Rates are smoothed over the last steps."""

    def __init__(self, console: Console, steps: int, *, first_step: int = 0, title: str = "training") -> None:
        self.console = console
        self._live = console.is_terminal
        self._smoothed: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._progress.add_task(title, total=steps, completed=first_step, state="starting")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        """Moves the bar, or prints a line."""
        for name in ("reward/accuracy", "groups/mixed_share", "speed/tokens_per_second", "seconds/step"):
            self._smoothed[name] = 0.7 * self._smoothed.get(name, metrics[name]) + 0.3 * metrics[name]
        state = (
            f"accuracy {self._smoothed['reward/accuracy']:.2f}  "
            f"mixed {self._smoothed['groups/mixed_share']:.0%}  "
            f"{self._smoothed['speed/tokens_per_second']:.0f} tok/s  "
            f"{self._smoothed['seconds/step']:.1f} s/step"
        )
        self._progress.update(self._task, completed=step, state=state)
        if not self._live:
            left = (steps - step) * self._smoothed["seconds/step"]
            self.console.print(f"step {step}/{steps}  {state}  ETA {left / 60:.1f} min", highlight=False)

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Prints the held-out accuracy."""
        rates = "".join(f", pass@{k} {rate:.1%}" for k, rate in evaluation.pass_at.items() if k > 1)
        self.console.print(
            f"step {step}: held-out accuracy {evaluation.accuracy:.1%}{rates} "
            f"on {evaluation.prompts} prompts",
            highlight=False,
        )

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, style="yellow", highlight=False, markup=False)
