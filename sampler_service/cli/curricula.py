"""`curricula list | get | create | update | shadows | delete`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
import yaml
from google.protobuf import json_format
from rich.table import Table

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
from sampler_service.cli.completion import complete_curriculum, complete_preset
from sampler_service.cli.shadows import shadows
from sampler_service.cli.strategy_text import read_strategy

__all__ = ["app"]

app = typer.Typer(help="List, read, create, change and delete curricula.", no_args_is_help=True)

_NewId = Annotated[str, typer.Argument(metavar="CURRICULUM", help="Id of the curriculum.")]
_Id = Annotated[
    str,
    typer.Argument(metavar="CURRICULUM", help="Id of the curriculum.", autocompletion=complete_curriculum),
]
_Preset = Annotated[
    str,
    typer.Option(help="Named strategy; the service's default is frontier.", autocompletion=complete_preset),
]
_Strategy = Annotated[
    str, typer.Option(help="YAML or JSON file with parts of the strategy, or JSON: '{\"exploration\": 0.2}'.")
]
_ValidateOnly = Annotated[
    bool,
    typer.Option(
        "--validate-only", help="Say whether it could be done and what it would be; change nothing."
    ),
]
_Etag = Annotated[str, typer.Option(help="Refuse if the strategy has changed since it had this etag.")]


@app.command("list")
def list_curricula(
    target: TargetOption = DEFAULT_TARGET, timeout: TimeoutOption = 10.0, as_json: JsonOption = False
) -> None:
    """List all curricula."""
    with service(target) as stub:
        everything = list(_all(lambda request: stub.ListCurricula(request, timeout=timeout)))
    if as_json:
        print_json(pb.ListCurriculaResponse(curricula=everything))
        return
    if not everything:
        console.print("No curricula yet. Make one: sampler-service curricula create NAME")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("curriculum")
    table.add_column("preset")
    for name in ("prompts", "rollouts", "policy", "leases"):
        table.add_column(name, justify="right")
    for one in everything:
        numbers = (one.prompt_count, one.rollout_count, one.policy_version, one.live_lease_count)
        table.add_row(one.curriculum_id, one.strategy.preset, *(f"{number:,}" for number in numbers))
    console.print(table)


@app.command("get")
def get(
    curriculum: _Id,
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show one curriculum, its strategy spelt out."""
    with service(target) as stub:
        answer = stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=curriculum), timeout=timeout)
    _show(answer.curriculum, as_json)


@app.command("create")
def create(
    curriculum: _NewId,
    preset: _Preset = "",
    strategy: _Strategy = "",
    validate_only: _ValidateOnly = False,
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Create an empty curriculum."""
    request = pb.CreateCurriculumRequest(
        request_id=_request_id(validate_only),
        curriculum_id=curriculum,
        strategy=read_strategy(preset, strategy),
        validate_only=validate_only,
    )
    with service(target) as stub:
        answer = stub.CreateCurriculum(request, timeout=timeout)
    if validate_only:
        _show_valid(answer.curriculum, f"{curriculum} could be created", as_json)
    else:
        _show(answer.curriculum, as_json)


@app.command("update")
def update(
    curriculum: _Id,
    preset: _Preset = "",
    strategy: _Strategy = "",
    etag: _Etag = "",
    validate_only: _ValidateOnly = False,
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Replace the strategy; what has been learnt about the prompts stays."""
    if not (preset or strategy):
        raise typer.BadParameter("say --preset, --strategy, or both", param_hint="--strategy")
    request = pb.UpdateCurriculumRequest(
        request_id=_request_id(validate_only),
        curriculum_id=curriculum,
        strategy=read_strategy(preset, strategy),
        etag=etag,
        validate_only=validate_only,
    )
    with service(target) as stub:
        answer = stub.UpdateCurriculum(request, timeout=timeout)
    if validate_only:
        _show_valid(answer.curriculum, f"{curriculum} could have this strategy", as_json)
    else:
        _show(answer.curriculum, as_json)


@app.command("delete")
def delete(
    curriculum: _Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    etag: _Etag = "",
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Delete a curriculum with its log, snapshots and checkpoints."""
    if not yes:
        typer.confirm(f"Delete {curriculum!r} and everything learnt in it?", abort=True, err=True)
    request = pb.DeleteCurriculumRequest(request_id=uuid.uuid4().hex, curriculum_id=curriculum, etag=etag)
    with service(target) as stub:
        answer = stub.DeleteCurriculum(request, timeout=timeout)
    if as_json:
        print_json(answer)
    else:
        console.print(f"Deleted {curriculum}.")


app.command("shadows")(shadows)


def _all(
    ask: Callable[[pb.ListCurriculaRequest], pb.ListCurriculaResponse],
) -> Iterator[pb.Curriculum]:
    page_token = ""
    while True:
        page = ask(pb.ListCurriculaRequest(page_token=page_token))
        yield from page.curricula
        page_token = page.next_page_token
        if not page_token:
            return


def _show(curriculum: pb.Curriculum, as_json: bool) -> None:
    if as_json:
        print_json(curriculum)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    rows: dict[str, Any] = {
        "curriculum": curriculum.curriculum_id,
        "preset": curriculum.strategy.preset,
        "prompts": f"{curriculum.prompt_count:,}",
        "rollouts": f"{curriculum.rollout_count:,}",
        "policy version": curriculum.policy_version,
        "live leases": curriculum.live_lease_count,
        "created": curriculum.create_time.ToDatetime().isoformat(" ", "seconds") + " UTC",
        "revision": curriculum.revision,
        "etag": curriculum.etag,
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    _show_strategy(curriculum)


def _request_id(validate_only: bool) -> str:
    """None for what only checks: a service that does not know how refuses it then."""
    return "" if validate_only else uuid.uuid4().hex


def _show_valid(curriculum: pb.Curriculum, said: str, as_json: bool) -> None:
    if as_json:
        print_json(curriculum)
        return
    console.print(f"Valid: {said}. Nothing was changed.")
    console.print(f"preset  {curriculum.strategy.preset}\netag    {curriculum.etag}")
    _show_strategy(curriculum)


def _show_strategy(curriculum: pb.Curriculum) -> None:
    parts = json_format.MessageToDict(curriculum.strategy, preserving_proto_field_name=True)
    parts.pop("preset", None)
    parts = {name: _plain(part) for name, part in parts.items()}
    console.print(yaml.safe_dump({"strategy": parts}, sort_keys=False).rstrip())


def _plain(value: Any) -> Any:
    """8.0 and "8" back to 8, which JSON of protobuf cannot tell apart; and one order, which a struct has not."""
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
