"""`replay`: what other strategies would have predicted and done."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import DEFAULT_TARGET, JsonOption, TargetOption, console, print_json, service
from sampler_service.cli.comparison_table import ComparisonTable, number
from sampler_service.cli.completion import complete_curriculum
from sampler_service.cli.strategy_text import read_any_strategy

__all__ = ["replay"]


def replay(
    curriculum: Annotated[
        str,
        typer.Argument(
            metavar="CURRICULUM", help="Id of the curriculum.", autocompletion=complete_curriculum
        ),
    ],
    strategy: Annotated[
        list[str], typer.Option(help="A preset, a YAML or JSON file, or JSON; several to compare them.")
    ],
    batches: Annotated[
        int, typer.Option(min=0, help="At how many batches each strategy draws one of its own; 0: 64.")
    ] = 0,
    target: TargetOption = DEFAULT_TARGET,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that all of it may take.")] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Fold the recorded log under other strategies, and compare them. Nothing is changed.

    Goes back as far as the log does: to the snapshot before the newest, or to the last restored checkpoint.
    """
    request = pb.ReplayCurriculumRequest(
        curriculum_id=curriculum,
        strategies=[read_any_strategy(text) for text in strategy],
        most_batches=batches,
    )
    with service(target) as stub:
        answer = stub.ReplayCurriculum(request, timeout=timeout)
    if as_json:
        print_json(answer)
        return
    console.print(
        f"{answer.events:,} events, {answer.batches:,} batches, {answer.groups:,} groups"
        f" of which {number(100 * answer.mixed_share, 1)} % came out mixed.",
    )
    console.print(ComparisonTable(answer.replays))
