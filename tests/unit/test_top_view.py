"""What `top` shows in terminals of different widths."""

from __future__ import annotations

import pytest
from rich.console import Console

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.top_view import Sample, overview


def shown(width: int, *summaries: pb.Summary) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(overview(Sample(0.0, summaries), None))
    return captured.get().splitlines()


def summary(name: str) -> pb.Summary:
    return pb.Summary(
        curriculum_id=name,
        preset="reinforce-ada-balance",
        prompts=1_000_000,
        prompts_seen=500_000,
        rollouts_spent=123_456_789,
        difficulty_histogram=pb.Histogram(counts=[0, 3, 0, 8, 5, 5, 1, 0, 0, 2]),
    )


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 160])
def test_columns_without_room_are_left_out_and_no_other_is_cut(width: int):
    header, *rows = shown(width, summary("math"), summary("code"))
    assert {"curriculum", "mixed", "difficulty"} <= set(header.split())
    assert len(rows) == 2, "each curriculum has one line"
    assert all(len(line) <= width for line in (header, *rows))
    assert "…" not in "".join((header, *rows))


def test_a_wide_terminal_has_room_for_all():
    header = shown(200, summary("math"))[0].split()
    assert header == [
        "curriculum", "preset", "policy", "prompts", "seen", "rollouts", "roll/s", "mixed", "wasted",
        "leases", "expired", "difficulty",
    ]  # fmt: skip


def test_a_name_that_is_wider_than_the_terminal_gives_way_itself():
    header, row = shown(60, summary("x" * 100))
    assert "difficulty" in header
    assert row.startswith("xxxxxxxxxxxxxxxx")
    assert "…" in row
