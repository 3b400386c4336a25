"""`tokens create | list | revoke`: who may use the service."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from sampler_service.access import Credential, Role, TokenFileError
from sampler_service.access.credentials import new_token, read_token_file, write_token_file
from sampler_service.cli.calls import JsonOption, console

__all__ = ["app"]

app = typer.Typer(help="Make, list and revoke the tokens of a token file.", no_args_is_help=True)

_File = Annotated[
    Path,
    typer.Option("--token-file", envvar="SAMPLER_AUTH__TOKEN_FILE", help="The service's token file."),
]
_Name = Annotated[str, typer.Argument(help="Who it is for; shown in logs and messages.")]
_DEFAULT_FILE = Path("tokens.yaml")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command("create")
def create(
    name: _Name,
    role: Annotated[Role, typer.Option(help="read looks, train trains, admin changes and deletes.")],
    curricula: Annotated[
        list[str] | None,
        typer.Option(
            "--curricula", "-c", help="An id, or its beginning and a *; may be repeated. [default: *]"
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="From now, as in 12h, 90d or 8w, or an ISO date; the default is never.")
    ] = "",
    certificate: Annotated[
        str, typer.Option(help="Instead of a token: a name in the client's certificate (mutual TLS).")
    ] = "",
    token_file: _File = _DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it: it is kept nowhere else. A running service takes it within a second."""
    known = _known(token_file, missing_is_empty=True)
    if any(one.name == name for one in known):
        raise typer.BadParameter(
            f"{token_file} has {name!r} already; revoke it first, or choose another name"
        )
    made = None if certificate else new_token()
    try:
        credential = Credential(
            name=name,
            sha256=made.sha256 if made else None,
            certificate=certificate or None,
            role=role,
            curricula=tuple(curricula or ("*",)),
            created=datetime.now(UTC).replace(microsecond=0),
            expires=_moment(expires),
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    _write(token_file, (*known, credential))
    if as_json:
        typer.echo(json.dumps({**_plain(credential), "token": made.token if made else None}, indent=2))
        return
    if made is not None:
        typer.echo(made.token)
        typer.echo(f"The token of {name!r} is shown this once; {token_file} holds its hash.", err=True)
    else:
        typer.echo(f"Clients whose certificate names {certificate!r} are {name!r} now.", err=True)


@app.command("list")
def list_tokens(token_file: _File = _DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List who has a token, and what it is good for; never the tokens."""
    known = _known(token_file)
    if as_json:
        typer.echo(json.dumps({"tokens": [_plain(one) for one in known]}, ensure_ascii=False, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "role", "curricula", "created", "expires"):
        table.add_column(column)
    for one in known:
        shown = _plain(one)
        expired = one.expires is not None and one.expires <= datetime.now(UTC)
        table.add_row(
            one.name,
            one.role,
            ", ".join(one.curricula),
            str(shown["created"] or "-"),
            f"{shown['expires'] or 'never'}{' (expired)' if expired else ''}",
        )
    console.print(table)


@app.command("revoke")
def revoke(name: _Name, token_file: _File = _DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """End a token. A running service refuses it within a second; streams it holds open are ended."""
    known = _known(token_file)
    left = tuple(one for one in known if one.name != name)
    if len(left) == len(known):
        raise typer.BadParameter(f"{token_file} has no {name!r}; it has {', '.join(o.name for o in known)}")
    _write(token_file, left)
    if as_json:
        typer.echo(json.dumps({"revoked": name}))
    else:
        console.print(f"Revoked {name}.")


def _known(file: Path, *, missing_is_empty: bool = False) -> tuple[Credential, ...]:
    if missing_is_empty and not file.exists():
        return ()
    try:
        return read_token_file(file)
    except TokenFileError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _write(file: Path, credentials: tuple[Credential, ...]) -> None:
    try:
        write_token_file(file, credentials)
    except OSError as error:
        typer.echo(f"error: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a time from now (12h, 90d, 8w) nor an ISO date", param_hint="--expires"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise typer.BadParameter(f"{text!r} is in the past", param_hint="--expires")
    return moment


def _plain(credential: Credential) -> dict[str, object]:
    return credential.model_dump(mode="json", include={"name", "role", "curricula", "created", "expires"}) | (
        {"certificate": credential.certificate} if credential.certificate else {}
    )
