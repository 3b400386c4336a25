"""`curricula shadows`: strategies followed beside the one in force."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer
from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import (
    DEFAULT_TARGET,
    JsonOption,
    TargetOption,
    TimeoutOption,
    console,
    print_json,
    service,
)
from sampler_service.cli.comparison_table import ComparisonTable
from sampler_service.cli.completion import complete_curriculum
from sampler_service.cli.strategy_text import read_any_strategy

__all__ = ["shadows"]


def shadows(
    curriculum: Annotated[
        str,
        typer.Argument(
            metavar="CURRICULUM", help="Id of the curriculum.", autocompletion=complete_curriculum
        ),
    ],
    add: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]STRATEGY", help="Follow this one too: a preset, a YAML or JSON file, or JSON."
        ),
    ] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option(metavar="NAME", help="Follow this one no longer.")] = [],  # noqa: B006
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show how shadow strategies do beside the one in force; add some, or remove them.

    Adding or removing one begins the comparison anew for all.
    """
    added = [_named(text) for text in add]
    with service(target) as stub:
        if added or remove:
            found = stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=curriculum), timeout=timeout)
            strategy = found.curriculum.strategy
            for name in remove:
                if name not in strategy.shadows.fields:
                    known = ", ".join(strategy.shadows.fields) or "none"
                    raise typer.BadParameter(
                        f"{name!r} is not followed; followed: {known}", param_hint="--remove"
                    )
                del strategy.shadows.fields[name]
            for name, shadow in added:
                plain = json_format.MessageToDict(shadow, preserving_proto_field_name=True)
                strategy.shadows.update({name: plain})
            request = pb.UpdateCurriculumRequest(
                request_id=uuid.uuid4().hex,
                curriculum_id=curriculum,
                strategy=strategy,
                etag=found.curriculum.etag,
            )
            stub.UpdateCurriculum(request, timeout=timeout)
        answer = stub.GetSummary(pb.GetSummaryRequest(curriculum_id=curriculum), timeout=timeout)
    summary = answer.summary
    if as_json:
        print_json(summary.shadows)
    elif not summary.HasField("shadows"):
        console.print(
            f"{curriculum} has no shadow strategies. Follow one: curricula shadows {curriculum} --add PRESET",
        )
    else:
        _show(summary.shadows)


def _named(text: str) -> tuple[str, pb.Strategy]:
    """The name and the strategy of `NAME=STRATEGY`; without a name it goes by that of its preset."""
    name, equals, rest = text.partition("=")
    if not equals or text.lstrip().startswith("{"):
        name, rest = "", text
    strategy = read_any_strategy(rest)
    if not (name or strategy.preset):
        raise typer.BadParameter(f"give it a name: --add 'NAME={text}'", param_hint="--add")
    return name or strategy.preset, strategy


def _show(message: pb.Shadows) -> None:
    since = message.since_time.ToDatetime().isoformat(" ", "seconds")
    console.print(
        f"Since {since} UTC: {message.batches:,} batches scored, {message.compared_batches:,} compared.",
    )
    console.print(ComparisonTable(message.strategies))
