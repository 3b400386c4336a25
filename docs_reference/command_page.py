"""The page of commands, from the command lines themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
import typer.main

from docs_reference.markdown import code, prose, table
from sampler_service.cli import app as service
from trainer_client.cli import app as trainer

__all__ = ["command_page", "commands"]

APPS = {"sampler-service": service, "trainer-client": trainer}


def commands() -> Iterator[tuple[str, Any]]:
    """Each command and group of commands, by how it is called."""
    for name, app in APPS.items():
        yield from _below(name, typer.main.get_command(app))


def command_page() -> str:
    """Every command with its arguments and options."""
    intro = "# Commands\n\n`--help` after any of them says the same in the terminal."
    return "\n\n".join([intro, *(_section(name, command) for name, command in commands())]) + "\n"


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for below, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _below(f"{name} {below}", inner)


def _section(name: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    arguments = " ".join(_metavar(p) for p in command.params if p.param_type_name == "argument")
    takes = arguments or ("COMMAND ..." if hasattr(command, "commands") else "")
    options = table(("", "default", "environment", ""), rows) if rows else "No options of its own."
    help_text = prose(inspect.cleandoc(command.help or ""))
    return f"## {code(name)}\n\n`{f'{name} {takes}'.strip()}`\n\n{help_text}\n\n{options}"


def _row(parameter: Any) -> tuple[str, str, str, str]:
    if parameter.param_type_name == "argument":
        shown = code(_metavar(parameter))
    else:
        shown = ", ".join(code(name) for name in (*parameter.opts, *parameter.secondary_opts))
    names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
    return (
        shown,
        "required" if parameter.required else _default(parameter.default),
        ", ".join(code(name) for name in names),
        prose(parameter.help or ""),
    )


def _metavar(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return f"{name}..." if parameter.nargs == -1 else name


def _default(value: object) -> str:
    if value is None or value is False or callable(value):
        return ""
    return code("on" if value is True else str(value))
