"""Makes request messages, and says which argument was of no use."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from trainer_client.client._status import invalid

__all__ = ["request_of"]

_Fields = ParamSpec("_Fields")
_Message = TypeVar("_Message")


def request_of(
    message: Callable[_Fields, _Message], *args: _Fields.args, **fields: _Fields.kwargs
) -> _Message:
    """`message(**fields)`, whose own errors do not name the field.

    Raises:
        InvalidArgumentError: a value is of a type, or beyond the range, that the field has no room for.
    """
    try:
        return message(*args, **fields)
    except (TypeError, ValueError) as error:
        for name, value in fields.items():
            try:
                cast("Callable[..., object]", message)(**{name: value})
            except (TypeError, ValueError) as why:
                kind = type(value).__name__
                raise invalid(name, f"is {value!r} ({kind}), which cannot be sent: {why}") from error
        raise
