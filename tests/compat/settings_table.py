"""The table of settings in docs/operations.md, from the models: `python -m tests.compat.settings_table`."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from sampler_service.config import ServiceConfig


def settings_table() -> str:
    """One row per environment variable: name, default, what it is."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, default, text in _settings(ServiceConfig, "SAMPLER_"):
        rows.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(rows)


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    texts = _docstrings(model)
    for name, field in model.model_fields.items():
        types = (field.annotation, *typing.get_args(field.annotation))
        nested = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
        variable = f"{prefix}{name.upper()}"
        if nested:
            yield from _settings(nested[0], f"{variable}__")
        else:
            yield variable, _default(field.default), texts.get(name, "")


def _default(value: object) -> str:
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(below.value, ast.Constant)
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


if __name__ == "__main__":
    print(settings_table())
