"""`inspect --output`: one prompt's visits as a file, the same one that the dashboard offers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import typer

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import console, service

__all__ = ["write_visits"]


def write_visits(
    file: Path, asked: pb.GetPromptHistoryRequest, target: str, timeout: float, as_json: bool
) -> None:
    """Asks for the visits and writes them; the file's ending says as what."""
    encode = _encoder(file)
    with service(target) as stub:
        past = stub.GetPromptHistory(asked, timeout=timeout)
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_bytes(encode(past))
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        typer.echo(f"error: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    written = len(past.times_seconds)
    if as_json:
        said = {
            "file": str(file),
            "visits": written,
            "visits_found": past.visits_found,
            "revision": past.revision,
        }
        typer.echo(json.dumps(said, ensure_ascii=False))
        return
    rest = (
        f", the newest of {past.visits_found:,}; --visits asks for more"
        if written < past.visits_found
        else ""
    )
    console.print(f"Wrote {written:,} visits to {file}{rest}.")


def _encoder(file: Path) -> Callable[[pb.GetPromptHistoryResponse], bytes]:
    # What writes files comes with the dashboard, which the other commands do without.
    if file.suffix == ".csv":
        from sampler_service.dashboard import tables

        return lambda past: tables.write_csv(tables.visits(past)).encode()
    if file.suffix != ".parquet":
        raise typer.BadParameter(f"{file} ends neither in .csv nor in .parquet", param_hint="--output")
    try:
        from sampler_service.dashboard.parquet import visits_parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        typer.echo(
            "error: Parquet needs pyarrow: pip install 'curriculum-sampler[parquet]', or name a .csv file",
            err=True,
        )
        raise typer.Exit(1) from None
    return visits_parquet
