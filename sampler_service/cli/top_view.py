"""What `top` shows: summaries, and how they differ from the look before, as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["Sample", "details", "overview", "plain"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Sample:
    """One look."""

    at_seconds: float
    """Monotonic."""
    summaries: Sequence[pb.Summary]
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    """By this machine's clock."""
    problem: str = ""
    """Why the service could not be asked since; empty when it could."""

    def rollouts_per_second(self, now: pb.Summary, before: Sample | None) -> float | None:
        """Between the look before and this one; None at the first, and after a restore took some back."""
        if before is None or self.at_seconds <= before.at_seconds:
            return None
        for then in before.summaries:
            if then.curriculum_id == now.curriculum_id and now.rollouts_spent >= then.rollouts_spent:
                return (now.rollouts_spent - then.rollouts_spent) / (self.at_seconds - before.at_seconds)
        return None


def plain(sample: Sample, before: Sample | None) -> dict[str, object]:
    """For programs: the figures of each curriculum; null for what is not known yet."""
    return {
        "curricula": [
            {
                "curriculum_id": one.curriculum_id,
                "preset": one.preset,
                "revision": one.revision,
                "stale": one.stale,
                "policy_version": one.policy_version,
                "prompts": one.prompts,
                "prompts_seen": one.prompts_seen,
                "prompts_in_flight": one.prompts_in_flight,
                "rollouts_spent": one.rollouts_spent,
                "rollouts_wasted": one.rollouts_wasted,
                "rollouts_saved": one.rollouts_saved,
                "rollouts_per_second": sample.rollouts_per_second(one, before),
                "effective_prompt_ratio": _known(one.effective_prompt_ratio),
                "brier": _known(one.calibration.brier),
                "live_leases": one.live_leases,
                "leases_expired": one.leases_expired,
                "duplicates": one.duplicates,
            }
            for one in sample.summaries
        ]
    }


def overview(sample: Sample, before: Sample | None) -> RenderableType:
    """A line per curriculum."""
    if not sample.summaries:
        return Text("No curricula yet. Make one: sampler-service curricula create NAME")
    return _Overview(sample, before)


class _Overview:
    """A table of as many columns as the terminal has room for, each of them whole."""

    _LEFT_OUT_FIRST = (
        "expired",
        "policy",
        "wasted",
        "seen",
        "preset",
        "leases",
        "prompts",
        "roll/s",
        "rollouts",
    )

    def __init__(self, sample: Sample, before: Sample | None) -> None:
        rows = [(one, sample.rollouts_per_second(one, before)) for one in sample.summaries]
        rows.sort(key=lambda row: -(row[1] or 0.0))
        self._stale = [one.stale for one, _ in rows]
        self._columns = {
            "curriculum": [one.curriculum_id + (" (stale)" if one.stale else "") for one, _ in rows],
            "preset": [one.preset or "custom" for one, _ in rows],
            "policy": [f"{one.policy_version:,}" for one, _ in rows],
            "prompts": [f"{one.prompts:,}" for one, _ in rows],
            "seen": [_share(one.prompts_seen, one.prompts) for one, _ in rows],
            "rollouts": [f"{one.rollouts_spent:,}" for one, _ in rows],
            "roll/s": ["-" if rate is None else f"{rate:,.1f}" for _, rate in rows],
            "mixed": [_percent(one.effective_prompt_ratio) for one, _ in rows],
            "wasted": [_share(one.rollouts_wasted, one.rollouts_spent) for one, _ in rows],
            "leases": [f"{one.live_leases:,}" for one, _ in rows],
            "expired": [f"{one.leases_expired:,}" for one, _ in rows],
            "difficulty": [_bars(one.difficulty_histogram.counts) for one, _ in rows],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {title: max(map(cell_len, (title, *cells))) for title, cells in self._columns.items()}
        for name in self._LEFT_OUT_FIRST:
            if sum(widths.values()) + 2 * len(widths) <= options.max_width:
                break
            del widths[name]
        # If there is still no room, it is the names that are cut.
        excess = max(sum(widths.values()) + 2 * len(widths) - options.max_width, 0)
        widths["curriculum"] = max(widths["curriculum"] - excess, 8)
        table = Table(box=None, pad_edge=False)
        for title, width in widths.items():
            side: JustifyMethod = "left" if title in ("curriculum", "preset", "difficulty") else "right"
            table.add_column(title, justify=side, no_wrap=True, overflow="ellipsis", width=width)
        for stale, cells in zip(
            self._stale, zip(*(self._columns[title] for title in widths), strict=True), strict=True
        ):
            name, *others = cells
            table.add_row(Text(name, style="red" if stale else ""), *others)
        yield table


def details(sample: Sample, before: Sample | None) -> RenderableType:
    """One curriculum: figures, difficulty by pass rate, calibration, leases."""
    (one,) = sample.summaries
    rate = sample.rollouts_per_second(one, before)
    figures = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "curriculum": one.curriculum_id + (" (stale: the log cannot be reached)" if one.stale else ""),
        "preset": one.preset or "custom",
        "policy version": f"{one.policy_version:,}",
        "prompts": f"{one.prompts:,}, {_share(one.prompts_seen, one.prompts)} seen, "
        f"{one.prompts_in_flight:,} in flight",
        "rollouts": f"{one.rollouts_spent:,}" + ("" if rate is None else f", {rate:,.1f} a second"),
        "mixed groups": f"{_percent(one.effective_prompt_ratio)} lately, "
        f"{_share(one.mixed_groups, one.groups)} of all",
        "wasted": _share(one.rollouts_wasted, one.rollouts_spent),
        "saved": f"{one.rollouts_saved:,.0f} rollouts against uniform (an estimate)",
        "Brier score": "-" if _known(one.calibration.brier) is None else f"{one.calibration.brier:.4f}",
        "leases": f"{len(one.leases):,} live, {one.leases_expired:,} expired",
        "repeats": f"{one.duplicates:,}",
        "revision": one.revision,
    }
    for name, value in rows.items():
        figures.add_row(Text(name, style="dim"), value)
    return Group(figures, Text(), _by_pass_rate(one), Text(), _leases(one, sample.time))


def _by_pass_rate(one: pb.Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("pass rate")
    table.add_column("prompts", justify="right")
    table.add_column("")
    histogram = one.difficulty_histogram
    most = max([*histogram.counts, 1])
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        table.add_row(f"{low:.2f} to {high:.2f}", f"{count:,}", Text("█" * round(40 * count / most), "blue"))
    return table


def _leases(one: pb.Summary, now: datetime) -> RenderableType:
    if not one.leases:
        return Text("No batch is out.", style="dim")
    table = Table(box=None, pad_edge=False)
    table.add_column("trainer")
    for name in ("prompts open", "granted", "reported", "expires"):
        table.add_column(name, justify="right")
    for lease in one.leases:
        left = (lease.expire_time.ToDatetime(UTC) - now).total_seconds()
        table.add_row(
            lease.trainer_id or "-",
            f"{lease.open_prompts:,}",
            f"{lease.rollouts_granted:,}",
            f"{lease.rollouts_reported:,}",
            _from_now(left),
        )
    return table


def _from_now(seconds: float) -> str:
    if seconds <= 0:
        return "due"
    return f"in {seconds:.0f} s" if seconds < 100 else f"in {seconds / 60:,.0f} min"


def _bars(counts: Sequence[int]) -> str:
    most = max([*counts, 1])
    return "".join(_BLOCKS[math.ceil(8 * count / most)] for count in counts)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _percent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
