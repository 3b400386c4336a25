"""What is wrong with settings, in words: one line per field, with its value and the remedy."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

# In the place of a list's item, and in that of the type which tells several models apart.
Location = tuple[int | str, ...]


def described(model: type[BaseModel], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each of pydantic's errors about `model`. What merely follows from another is left out."""
    places = [tuple(item["loc"]) for item in errors]
    lines = []
    for item, place in zip(errors, places, strict=True):
        below = any(other[: len(place)] == place and len(other) > len(place) for other in places)
        # A list whose items are wrong counts as too short for pydantic.
        if item["type"] != "too_short" or not below:
            lines.append(f"{_name(place) or '(top level)'}: {_problem(model, item, place)}")
    return lines


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The settings models within a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [model for part in get_args(annotation) for model in models_of(part)]
    return []


def type_name(model: type[BaseModel]) -> str:
    """What `type` says where a field may be one of several models."""
    annotation = model.model_fields["type"].annotation
    return str(get_args(annotation)[0]) if get_origin(annotation) is Literal else model.__name__


def _name(place: Location) -> str:
    return ".".join(str(part) for part in place)


def _problem(model: type[BaseModel], item: Mapping[str, Any], place: Location) -> str:
    if item["type"] == "extra_forbidden":
        return _unknown(model, place)
    value = item["input"]
    shown = "" if item["type"] == "missing" or isinstance(value, dict | list) else f", got {value!r}"
    return f"{item['msg']}{shown}"


def _unknown(model: type[BaseModel], place: Location) -> str:
    owner = _model_at(model, place[:-1])
    names = sorted(owner.model_fields) if owner else []
    elsewhere = [_name(path) for path in _paths(model) if path[-1] == place[-1]]
    if elsewhere:
        return f"there is no such setting here; did you mean {elsewhere[0]!r}?"
    near = difflib.get_close_matches(str(place[-1]), names, n=1)
    if near:
        return f"there is no such setting; did you mean {near[0]!r}?"
    return f"there is no such setting; there are {', '.join(names)}"


def _model_at(model: type[BaseModel], place: Location) -> type[BaseModel] | None:
    """The model that holds the field at the end of `place`."""
    at: list[type[BaseModel]] = [model]
    for part in place:
        if isinstance(part, int):
            continue
        named = [one for one in at if "type" in one.model_fields and type_name(one) == part]
        found = named or [
            below
            for one in at
            if part in one.model_fields
            for below in models_of(one.model_fields[part].annotation)
        ]
        at = found
    return at[0] if len(at) == 1 else None


def _paths(model: type[BaseModel], path: Location = ()) -> Iterator[Location]:
    """Every setting outside lists, by its full name."""
    for name, field in model.model_fields.items():
        below = models_of(field.annotation)
        if not below:
            yield (*path, name)
        elif len(below) == 1:
            yield from _paths(below[0], (*path, name))
