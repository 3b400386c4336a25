"""`export` and `import`: curricula as files."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import DEFAULT_TARGET, JsonOption, TargetOption, console, print_json, service
from sampler_service.cli.completion import complete_curriculum

__all__ = ["export_curriculum", "import_curriculum"]

_PIECE_BYTES = 2**20
_Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that all of it may take.")]


def export_curriculum(
    curriculum: Annotated[
        str,
        typer.Argument(
            metavar="CURRICULUM", help="Id of the curriculum.", autocompletion=complete_curriculum
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file to write.")],
    checkpoint: Annotated[str, typer.Option(help="A kept state instead of the present one.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    timeout: _Timeout = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Write a curriculum to one Parquet file: a row per prompt, and all that `import` needs to go on.

    The service needs the parquet extra. FILE appears when it is complete.
    """
    part = file.with_name(f"{file.name}.part")
    request = pb.ExportCurriculumRequest(curriculum_id=curriculum, checkpoint_id=checkpoint)
    revision = ""
    try:
        with service(target) as stub, part.open("wb") as out:
            for piece in stub.ExportCurriculum(request, timeout=timeout):
                out.write(piece.data)
                revision = piece.revision
        size = part.stat().st_size
        part.replace(file)
    except OSError as error:
        typer.echo(f"error: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    finally:
        part.unlink(missing_ok=True)
    if as_json:
        said = {"curriculum_id": curriculum, "revision": revision, "file": str(file), "bytes": size}
        typer.echo(json.dumps(said, ensure_ascii=False))
        return
    console.print(f"Exported {curriculum} at {revision} to {file}, {size:,} bytes.")


def import_curriculum(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that export wrote.")],
    name: Annotated[str, typer.Option("--as", help="Another id than the exported curriculum's.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    timeout: _Timeout = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Make a curriculum of an exported file. It goes on where the exported one was, or is not made at all.

    The service needs the parquet extra.
    """
    try:
        opened = file.open("rb")
    except OSError as error:
        typer.echo(f"error: {file} cannot be read: {error.strerror}", err=True)
        raise typer.Exit(1) from None

    def pieces() -> Iterator[pb.ImportCurriculumRequest]:
        first = pb.ImportCurriculumRequest(curriculum_id=name, request_id=uuid.uuid4().hex)
        first.data = opened.read(_PIECE_BYTES)
        yield first
        while data := opened.read(_PIECE_BYTES):
            yield pb.ImportCurriculumRequest(data=data)

    with opened, service(target) as stub:
        made = stub.ImportCurriculum(pieces(), timeout=timeout).curriculum
    if as_json:
        print_json(made)
        return
    console.print(
        f"Imported {made.curriculum_id}: {made.prompt_count:,} prompts, {made.rollout_count:,} rollouts,"
        f" policy version {made.policy_version}.",
    )
