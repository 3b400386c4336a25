"""The page of the service's settings, from the models."""

from __future__ import annotations

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
        if nested:
            yield from _variables(nested[0], f"{variable}__")
        else:
            yield variable, _default(field.default), texts.get(name, "")


def _default(value: object) -> str:
    if value is None:
        return ""
    return code(str(value).lower() if isinstance(value, bool) else str(value))
