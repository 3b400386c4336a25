"""What a settings model says of its fields: type, default, bounds and the docstring below each."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from docs_reference.markdown import code, prose, table

__all__ = ["field_docs", "fields_table"]

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_PLACES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, of the model and of those it derives from."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= dict(_docstrings(owner))
    return found


def fields_table(model: type[BaseModel], *, without: tuple[str, ...] = ()) -> str:
    """A row per field: name, type, default, bounds, meaning."""
    texts = field_docs(model)
    rows = [
        (code(name), code(_type(field)), _default(field), _bounds(field), prose(texts.get(name, "")))
        for name, field in model.model_fields.items()
        if name not in without
    ]
    return table(("parameter", "type", "default", "bounds", ""), rows) if rows else "No parameters."


def _docstrings(owner: type) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield field.target.id, " ".join(str(below.value.value).split())


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return _PLACES.sub("", str(annotation))


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        name = getattr(value, "registered_name", "")
        return code(name) if name else "its defaults"
    return code(json.dumps(to_jsonable_python(value), ensure_ascii=False))


def _bounds(field: FieldInfo) -> str:
    return ", ".join(
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    )
