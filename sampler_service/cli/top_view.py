"""What `top` shows: summaries, and how they differ from the look before, as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
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
    table = Table(box=None, pad_edge=False)
    # The name is what one looks for: in a narrow terminal the other columns give way first.
    longest = max(len(one.curriculum_id) for one in sample.summaries)
    table.add_column("curriculum", overflow="ellipsis", no_wrap=True, min_width=min(longest, 24))
    table.add_column("preset")
    for name in ("policy", "prompts", "seen", "rollouts", "roll/s", "mixed", "wasted", "leases", "expired"):
        table.add_column(name, justify="right")
    table.add_column("difficulty")
    for one in sorted(sample.summaries, key=lambda s: -(sample.rollouts_per_second(s, before) or 0.0)):
        rate = sample.rollouts_per_second(one, before)
        table.add_row(
            Text(one.curriculum_id + (" (stale)" if one.stale else ""), style="red" if one.stale else ""),
            one.preset or "custom",
            f"{one.policy_version:,}",
            f"{one.prompts:,}",
            _share(one.prompts_seen, one.prompts),
            f"{one.rollouts_spent:,}",
            "-" if rate is None else f"{rate:,.1f}",
            _percent(one.effective_prompt_ratio),
            _share(one.rollouts_wasted, one.rollouts_spent),
            f"{one.live_leases:,}",
            f"{one.leases_expired:,}",
            _bars(one.difficulty_histogram.counts),
        )
    return table


def details(sample: Sample, before: Sample | None) -> RenderableType:
    """One curriculum: figures, difficulty and quotas by pass rate, calibration, leases."""
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
    return Group(figures, Text(), _by_pass_rate(one), Text(), _leases(one))


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


def _leases(one: pb.Summary) -> RenderableType:
    if not one.leases:
        return Text("No batch is out.", style="dim")
    table = Table(box=None, pad_edge=False)
    table.add_column("trainer")
    for name in ("prompts open", "granted", "reported", "expires"):
        table.add_column(name, justify="right")
    now = one.update_time.ToDatetime()
    for lease in one.leases:
        left = (lease.expire_time.ToDatetime() - now).total_seconds()
        table.add_row(
            lease.trainer_id or "-",
            f"{lease.open_prompts:,}",
            f"{lease.rollouts_granted:,}",
            f"{lease.rollouts_reported:,}",
            f"in {max(left, 0):,.0f} s",
        )
    return table


def _bars(counts: Sequence[int]) -> str:
    most = max([*counts, 1])
    return "".join(_BLOCKS[math.ceil(8 * count / most)] for count in counts)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _percent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
