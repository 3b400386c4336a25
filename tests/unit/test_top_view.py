"""What `top` shows in terminals of different widths."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from rich.console import Console

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.cli.top import look
from sampler_service.cli.top_view import Sample, details, overview
from tests.ports import free_port


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


def test_leases_end_by_the_clock_and_not_by_the_last_event():
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    one = summary("math")
    one.update_time.FromDatetime(now - timedelta(hours=1))
    for seconds in (42, 1700, -5):
        one.leases.add(trainer_id="t").expire_time.FromDatetime(now + timedelta(seconds=seconds))
    console = Console(width=100)
    with console.capture() as captured:
        console.print(details(Sample(0.0, [one], now), None))
    rows = [line.split() for line in captured.get().splitlines() if line.startswith("t ")]
    assert [" ".join(row[4:]) for row in rows] == ["in 42 s", "in 28 min", "due"]


class Unsteady:
    """A service that is away every second time it is asked."""

    def __init__(self, away: grpc.Channel) -> None:
        self.asked = 0
        self.away = CurriculumServiceStub(away)

    def GetSummary(self, request: pb.GetSummaryRequest, timeout: float) -> pb.GetSummaryResponse:  # noqa: N802
        self.asked += 1
        if self.asked % 2 == 0:
            return self.away.GetSummary(request, timeout=timeout)
        return pb.GetSummaryResponse(summary=pb.Summary(curriculum_id="math", rollouts_spent=self.asked))


def test_a_service_that_goes_away_is_asked_again_and_meanwhile_the_last_look_stays():
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as nobody:
        looks = look(Unsteady(nobody), "math", 0.0, 60.0, threading.Event(), "the-target")
        first, again, third = (next(looks) for _ in range(3))
    assert (first[0].problem, third[0].problem) == ("", "")
    assert again[0].problem.startswith("no service answers at the-target")
    assert again[0].summaries == first[0].summaries
    assert third[1] is first[0], "rates are of the time since it was last known"


def test_a_program_is_told_that_the_service_went_away():
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as nobody:
        looks = look(Unsteady(nobody), "math", 0.0, 60.0, threading.Event(), "")
        next(looks)
        with pytest.raises(grpc.RpcError):
            next(looks)


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
