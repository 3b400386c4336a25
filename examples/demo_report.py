"""What the demo shows at its end: tables, and the difficulty histogram in the terminal and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from trainer_client.client import Summary
from trainer_client.evaluation import Evaluation
from trainer_client.loop import RunResult


@dataclass(frozen=True)
class DemoRun:
    """One preset's run. `summary` is the service's own view at the end."""

    preset: str
    result: RunResult
    summary: Summary | None
    seconds: float

    @property
    def before(self) -> Evaluation | None:
        """The evaluation before the first step."""
        return self.result.evaluations[0][1] if self.result.evaluations else None

    @property
    def after(self) -> Evaluation | None:
        """The last evaluation, where there was one after training began."""
        last = self.result.evaluations[-1:]
        return last[0][1] if last and last[0][0] > 0 else None

    def total(self, name: str) -> float:
        """A metric summed over the steps."""
        return sum(metrics.get(name, 0.0) for metrics in self.result.history)

    def mixed_share(self) -> float:
        """Share of all groups that had mixed outcomes."""
        mixed = sum(m["groups/mixed_share"] * m["groups/count"] for m in self.result.history)
        return mixed / max(self.total("groups/count"), 1.0)


def print_report(console: Console, runs: Sequence[DemoRun]) -> None:
    """The table of figures, the accuracies by kind of task, and the histograms."""
    table = Table(title="The run in figures" if len(runs) == 1 else "The runs in figures")
    table.add_column("")
    for run in runs:
        table.add_column(run.preset, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("steps", [str(run.result.steps) for run in runs]),
        ("held-out accuracy before", [_percent(run.before) for run in runs]),
        ("held-out accuracy after", [_percent(run.after) for run in runs]),
        ("rollouts", [f"{run.total('rollouts/count'):,.0f}" for run in runs]),
        ("completion tokens", [f"{run.total('rollouts/tokens'):,.0f}" for run in runs]),
        ("optimizer updates", [_updates(run) for run in runs]),
        ("groups with mixed outcomes", [f"{run.mixed_share():.0%}" for run in runs]),
        ("seconds per step", [f"{_per_step(run, 'seconds/step'):.2f}" for run in runs]),
        ("  sampling", [f"{_per_step(run, 'seconds/rollout'):.2f}" for run in runs]),
        ("  learning", [f"{_per_step(run, 'seconds/update'):.2f}" for run in runs]),
        ("  service", [f"{_per_step(run, 'seconds/service'):.3f}" for run in runs]),
        ("service's share of the time", [_service_share(run) for run in runs]),
        ("whole run", [f"{run.seconds / 60:.1f} min" for run in runs]),
    ]
    for label, cells in rows:
        table.add_row(label, *cells)
    console.print(table)
    for run in runs:
        if run.before and run.after:
            _print_clusters(console, run, run.before, run.after)
            _print_histogram(console, run, run.before, run.after)


def write_picture(runs: Sequence[DemoRun], path: Path) -> bool:
    """Held-out pass rates before and after, and the service's estimates; False with nothing to show."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    shown = [(run, run.before, run.after) for run in runs if run.before and run.after]
    if not shown:
        return False
    figure, axes = pyplot.subplots(len(shown), 2, figsize=(11, 4 * len(shown)), squeeze=False)
    for (measured, estimated), (run, before, after) in zip(axes, shown, strict=True):
        edges, old = _histogram(before)
        _, new = _histogram(after)
        measured.bar(edges - 0.042, old, width=0.08, label="before", color="#9aa5b1")
        measured.bar(edges + 0.042, new, width=0.08, label="after", color="#2f7ed8")
        measured.set_title(f"{run.preset}: held-out prompts, measured")
        measured.set_xlabel("pass rate")
        measured.set_ylabel("prompts")
        measured.legend()
        if run.summary is not None:
            histogram = run.summary.difficulty_histogram
            centres = (np.array(histogram.edges[:-1]) + np.array(histogram.edges[1:])) / 2
            estimated.bar(centres, histogram.counts, width=0.9 / max(len(centres), 1), color="#2f7ed8")
            estimated.set_title(f"the service's estimates at the end ({histogram.unseen} not rolled out yet)")
            estimated.set_xlabel("estimated pass rate")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _histogram(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Pass rates k / samples and how many prompts have each."""
    levels = np.arange(evaluation.samples + 1) / evaluation.samples
    hits = np.rint(np.array(evaluation.pass_rates) * evaluation.samples).astype(int)
    return levels, np.bincount(hits, minlength=len(levels))


def _print_histogram(console: Console, run: DemoRun, before: Evaluation, after: Evaluation) -> None:
    levels, old = _histogram(before)
    _, new = _histogram(after)
    scale = 24 / max(int(old.max()), int(new.max()), 1)
    table = Table(title=f"Difficulty of held-out prompts, {run.preset}", box=None, padding=(0, 1))
    table.add_column("pass rate", justify="right")
    table.add_column("before", justify="left")
    table.add_column("after", justify="left")
    for level, was, now in zip(levels, old, new, strict=True):
        table.add_row(
            f"{level:.2f}",
            f"[bright_black]{'█' * round(was * scale)}[/] {was}",
            f"[blue]{'█' * round(now * scale)}[/] {now}",
        )
    console.print(table)


def _print_clusters(console: Console, run: DemoRun, before: Evaluation, after: Evaluation) -> None:
    table = Table(title=f"Held-out accuracy by kind of task, {run.preset}")
    for name in ("kind", "prompts", "before", "after"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for cluster, (count, rate) in before.by_cluster.items():
        table.add_row(cluster, str(count), f"{rate:.0%}", f"{after.by_cluster[cluster][1]:.0%}")
    console.print(table)


def _percent(evaluation: Evaluation | None) -> str:
    return f"{evaluation.accuracy:.1%}" if evaluation else "not measured"


def _per_step(run: DemoRun, name: str) -> float:
    return run.total(name) / max(len(run.result.history), 1)


def _service_share(run: DemoRun) -> str:
    return f"{run.total('seconds/service') / max(run.total('seconds/step'), 1e-9):.2%}"


def _updates(run: DemoRun) -> str:
    return f"{run.result.history[-1]['learner/updates']:.0f}" if run.result.history else "0"
