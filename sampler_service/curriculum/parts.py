"""What every method is made of: a frozen set of parameters that validates itself, and a registry by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sampler_service.curriculum.errors import InvalidArgument

__all__ = ["Part", "Registry", "known_names", "validated"]


class Part(BaseModel):
    """Parameters of one method. Subclasses add fields and one pure function."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    registered_name: ClassVar[str] = ""
    """Set by the registry that lists it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Columns of AddPrompts of which it needs at least one to be of any use."""
    uses_embeddings: ClassVar[bool] = False
    """It reads embeddings: they are kept in memory while it is in force, and else are not."""
    uses_id_hashes: ClassVar[bool] = False
    """It chooses by hashes of ids: those of a large pool are made in a thread before it is in force."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Parameters younger than logs that hold the part. They are spelt out only where they differ from their
    default, which therefore never changes: a strategy without them keeps its etag, and replicas that do not
    know them still read it."""


P = TypeVar("P", bound=Part)
M = TypeVar("M", bound=BaseModel)


def known_names(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that is none of `names`: what was probably meant, and what there is."""
    names = list(names)
    meant = get_close_matches(name, names, n=1)
    return (f"Did you mean {meant[0]!r}? " if meant else "") + f"Known: {', '.join(names) or 'none'}."


def validated(model: type[M], values: Mapping[str, Any], field: str) -> M:
    """Builds `model` from `values`.

    Raises:
        InvalidArgument: names the field under `field`, the value and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(inner := first.get("ctx", {}).get("error"), InvalidArgument):
            raise inner from None
        path = ".".join([field, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            known = known_names(str(first["loc"][-1]), model.model_fields)
            raise InvalidArgument("UNKNOWN_FIELD", f"{path} is not a parameter here. {known}", path) from None
        raise InvalidArgument(
            "INVALID_PARAMETER", f"{path} = {first['input']!r}: {first['msg']}.", path
        ) from None


class Registry(Generic[P]):
    """Methods of one kind, by name.

    Args:
        kind: what they are, for messages and as the field's name in a strategy.
        methods: name → parameters class.
    """

    def __init__(self, kind: str, methods: Mapping[str, type[P]]) -> None:
        self.kind = kind
        self._methods = dict(methods)
        self._names = {cls: name for name, cls in self._methods.items()}
        for name, method in self._methods.items():
            method.registered_name = name

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __getitem__(self, name: str) -> type[P]:
        return self._methods[name]

    def parse(self, value: object, field: str) -> P:
        """A method from `"name"` or `{"name": {parameter: value}}`.

        Raises:
            InvalidArgument: unknown method, unknown parameter, or a value out of range.
        """
        if isinstance(value, Part):
            return value  # type: ignore[return-value]
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, Mapping) or len(value) != 1:
            raise InvalidArgument(
                "INVALID_PART",
                f"{field} must be one method as {{name: {{parameters}}}}, got {value!r}.",
                field,
            )
        ((name, parameters),) = value.items()
        if name not in self._methods:
            raise InvalidArgument(
                "UNKNOWN_METHOD",
                f"{field} = {name!r} is not a {self.kind} method. {known_names(str(name), self._methods)}",
                field,
            )
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, Mapping):
            raise InvalidArgument(
                "INVALID_PART", f"{field}.{name} must map parameters to values, got {parameters!r}.", field
            )
        return validated(self._methods[name], parameters, f"{field}.{name}")

    def dump(self, part: P) -> dict[str, Any]:
        """The inverse of `parse`, every parameter spelt out but `later` ones that are off."""
        fields = type(part).model_fields
        off = {name for name in part.later if getattr(part, name) == fields[name].default}
        return {self._names[type(part)]: part.model_dump(mode="json", exclude=off)}
