"""Every setting of a run with its default and what it means, read off the models."""

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainer_client.config import TrainConfig
from trainer_client.setting_errors import models_of, type_name


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
        models = models_of(field.annotation)
        if not models:
            yield where, _default(field), field.description or ""
        elif len(models) == 1:
            yield from _fields(models[0], f"{where}.")
        else:
            for one in models:
                yield from _fields(one, f"{where}.N ({type_name(one)}).")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "(required)"
    if isinstance(value, tuple):
        return str(list(value))
    return "null" if value is None else str(value)
