"""The strategy argument: a preset's name, a mapping over it, or the message itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._status import invalid

__all__ = ["StrategyLike"]

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


def _plain(value: object) -> object:
    """Tuples, numpy numbers and arrays as JSON would have them."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
