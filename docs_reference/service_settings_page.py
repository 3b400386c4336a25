"""The page of the service's settings, from the models."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from docs_reference.markdown import code
from docs_reference.model_fields import field_docs
from sampler_service.config import ServiceConfig

__all__ = ["service_settings_page", "service_settings_table"]


def service_settings_page() -> str:
    """Every environment variable of the service."""
    intro = (
        "# Settings of the service\n\nThe same names, in small letters and nested, go into the YAML file of"
        " `--config`. What they are for: [Operations](../operations.md)."
    )
    return f"{intro}\n\n{service_settings_table()}\n"


def service_settings_table() -> str:
    """One row per environment variable: name, default, what it is."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, default, text in _variables(ServiceConfig, "SAMPLER_"):
        rows.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(rows)


def _variables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    texts = field_docs(model)
    for name, field in model.model_fields.items():
        types = (field.annotation, *typing.get_args(field.annotation))
        nested = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
        variable = f"{prefix}{name.upper()}"
        entries = next(filter(None, map(_entries_of, types)), None)
        if entries is not None:
            fields = ", ".join(map(code, entries.model_fields))
            yield (
                variable,
                _default(field.default),
                f"{texts[name]} A list, as JSON, of entries with {fields}.",
            )
        elif nested:
            yield from _variables(nested[0], f"{variable}__")
        else:
            yield variable, _default(field.default), texts.get(name, "")


def _entries_of(kind: object) -> type[BaseModel] | None:
    """The model that a list is a list of."""
    found = [one for one in typing.get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
    return found[0] if typing.get_origin(kind) in (tuple, list) and found else None


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return code(json.dumps(value))
    return code(str(value).lower() if isinstance(value, bool) else str(value))
