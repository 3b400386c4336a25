"""What commands print fits the terminal it is printed in, whole."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.comparison_table import ComparisonTable
from sampler_service.cli.prompts import visits_table


def printed(width: int, what: RenderableType) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get().splitlines()


def compared(count: int) -> list[pb.StrategyReplay]:
    return [
        pb.StrategyReplay(
            strategy="in force" if i == 0 else f"reinforce-ada-balance-{i}",
            estimator="item_response+none#1f00aa",
            calibration=pb.Calibration(brier=0.2 + i / 100, log_loss=0.5, spearman=float("nan")),
            batch_overlap=i / 8,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_strategies_are_compared_in_rows_or_columns_with_no_figure_cut(width: int, count: int) -> None:
    lines = printed(width, ComparisonTable(compared(count)))
    text = "\n".join(lines)
    assert "…" not in text
    assert all(len(line) <= width for line in lines)
    for i in range(count):
        assert f"{0.2 + i / 100:.4f}" in text
        assert f"{i / 8:.3f}" in text
    assert "weighted mixed" in text


def test_a_wide_terminal_has_a_row_for_each_strategy() -> None:
    lines = printed(200, ComparisonTable(compared(3)))
    assert [line.split()[0] for line in lines] == [
        "strategy", "in", "reinforce-ada-balance-1", "reinforce-ada-balance-2",
    ]  # fmt: skip


def history() -> pb.GetPromptHistoryResponse:
    nan = float("nan")
    return pb.GetPromptHistoryResponse(
        times_seconds=[1_760_000_000, 1_760_000_048],
        revisions=["1-0", "2-0"],
        lease_ids=["lease", ""],
        trainer_ids=["a-trainer-with-a-long-name", ""],
        policy_versions=[123_456, 123_457],
        sources=[pb.SOURCE_CONTINUATION, pb.SOURCE_UNSPECIFIED],
        pass_rates=[0.5, nan],
        pass_rate_stddevs=[0.125, nan],
        probabilities=[0.1, nan],
        quotas=[32, 0],
        rollouts=[32, 4],
        outcomes=[32, 4],
        successes=[16, 1],
        mean_rewards=[0.5, 0.25],
        report_times_seconds=[1_760_000_009, 1_760_000_048],
        statuses=[pb.VISIT_STATUS_REPORTED, pb.VISIT_STATUS_OUTSIDE],
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_visit_has_one_line(width: int) -> None:
    head, inside, outside = printed(width, visits_table(history(), width))
    assert all(len(line.rstrip()) <= width for line in (head, inside, outside))
    assert ("trainer" in head) == ("a-trainer-with" in inside) == (width == 120)
    assert "2025-10-09 08:53" in inside
    assert "continuation" in inside
    assert "0.500 ± 0.125" in inside
    assert "16 of 32" in inside
    assert outside.split()[-4:] == ["1", "of", "4", "outside"]
    assert "nan" not in outside
