"""`replay`: what other strategies would have predicted and done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import DEFAULT_TARGET, JsonOption, TargetOption, console, print_json, service
from sampler_service.cli.completion import complete_curriculum
from sampler_service.cli.strategy_text import read_strategy

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
        curriculum_id=curriculum, strategies=[_strategy(text) for text in strategy], most_batches=batches
    )
    with service(target) as stub:
        answer = stub.ReplayCurriculum(request, timeout=timeout)
    if as_json:
        print_json(answer)
        return
    console.print(
        f"{answer.events:,} events, {answer.batches:,} batches, {answer.groups:,} groups"
        f" of which {_number(100 * answer.mixed_share, 1)} % came out mixed.",
        markup=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("estimator", no_wrap=True)
    for name in ("Brier", "log loss", "Spearman", "predicted mixed", "drawn mixed", "quotas", "batch"):
        table.add_column(name, justify="right")
    for one in answer.replays:
        scores = one.calibration
        table.add_row(
            one.strategy,
            one.estimator,
            *(_number(value, 4) for value in (scores.brier, scores.log_loss)),
            *(
                _number(value, 3)
                for value in (
                    scores.spearman,
                    one.predicted_mixed_share,
                    one.expected_mixed_share,
                    one.quota_overlap,
                    one.batch_overlap,
                )
            ),
        )
    console.print(table)


def _strategy(text: str) -> pb.Strategy:
    is_text = text.lstrip().startswith("{") or Path(text).suffix in (".yaml", ".yml", ".json")
    return read_strategy("", text) if is_text else read_strategy(text, "")


def _number(value: float, digits: int) -> str:
    return "-" if value != value else f"{value:.{digits}f}"
