"""The strategy argument: a preset's name, a mapping over it, or the message itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._status import invalid

__all__ = ["StrategyLike"]

_log = logging.getLogger("trainer_client.client")

StrategyLike: TypeAlias = "str | Mapping[str, object] | pb.Strategy | None"
"""A preset such as `"frontier"`; a mapping such as
`{"preset": "cures", "proposal": {"cures": {"temperature": 0.1}}}`; a message;
or None for the service's default."""


def strategy_message(strategy: StrategyLike) -> pb.Strategy:
    """Builds the message. Raises `InvalidArgumentError` naming a field that does not exist."""
    if strategy is None:
        return pb.Strategy()
    if isinstance(strategy, pb.Strategy):
        return strategy
    if isinstance(strategy, str):
        return pb.Strategy(preset=strategy)
    unknown = [key for key in strategy if key not in pb.Strategy.DESCRIPTOR.fields_by_name]
    if unknown:
        known = ", ".join(pb.Strategy.DESCRIPTOR.fields_by_name)
        raise invalid(f"strategy.{unknown[0]}", f"is no part of a strategy; the parts are {known}")
    message = pb.Strategy()
    for key, value in strategy.items():
        if value is None:
            continue
        try:
            json_format.ParseDict({key: _plain(value)}, message)
        except (json_format.ParseError, TypeError, ValueError) as error:
            raise invalid(f"strategy.{key}", f"{value!r} is not accepted: {error}") from error
    return message


def warn_of_other_strategy(curriculum_id: str, asked: pb.Strategy, present: pb.Strategy) -> None:
    """Logs what an existing curriculum does otherwise than was asked: it goes on as it is."""
    others = list(_others("strategy", _as_dict(asked), _as_dict(present)))
    if others:
        _log.warning(
            "curriculum %r exists and goes on with its own strategy, not with the one asked for: %s."
            " Set it with update_curriculum, or choose another curriculum_id.",
            curriculum_id,
            "; ".join(others),
        )


def _as_dict(strategy: pb.Strategy) -> dict[str, object]:
    parts = dict(json_format.MessageToDict(strategy, preserving_proto_field_name=True))
    parts.pop("shadows", None)  # They draw nothing.
    return parts


def _others(path: str, asked: object, present: object) -> Iterator[str]:
    """Where `present`, which spells everything out, does not contain `asked`."""
    if isinstance(asked, Mapping) and isinstance(present, Mapping):
        for name, value in asked.items():
            yield from _others(f"{path}.{name}", value, present.get(name))
    elif isinstance(asked, str) and isinstance(present, Mapping):
        if list(present) != [asked]:  # A part without parameters may be given by its name alone.
            yield f"{path} is {', '.join(present) or 'none'}, not {asked}"
    elif asked != present:
        yield f"{path} is {'not set' if present is None else repr(present)}, not {asked!r}"


def _plain(value: object) -> object:
    """Tuples, numpy numbers and arrays as JSON would have them."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
