"""Every setting of a run with its default and what it means, read off the models."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainer_client.config import TrainConfig


def settings_list(prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name as in `--set`, default, and description; those whose name starts with `prefix`.

    Tasks are listed by type, as `tasks.N (jsonl).path`.
    """
    for name, default, description in _fields(TrainConfig, ""):
        if name.startswith(prefix):
            yield name, default, description


def _fields(model: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        where = f"{path}{name}"
        models = _models(field.annotation)
        if not models:
            yield where, _default(field), field.description or ""
        elif len(models) == 1:
            yield from _fields(models[0], f"{where}.")
        else:
            for one in models:
                yield from _fields(one, f"{where}.N ({_type_name(one)}).")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings models within a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _type_name(model: type[BaseModel]) -> str:
    annotation = model.model_fields["type"].annotation
    return str(get_args(annotation)[0]) if get_origin(annotation) is Literal else model.__name__


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "(required)"
    if isinstance(value, tuple):
        return str(list(value))
    return "null" if value is None else str(value)
