"""Protobuf messages as the JSON that a web page wants.

Field names as in the proto file, every field always present, int64 as a JSON number (the protobuf JSON
mapping makes it a string), absent optional fields and values that JSON cannot say (NaN, infinities) as null,
timestamps in RFC 3339, structs as plain objects in the order of their names.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

type_name_to_json: Mapping[str, Callable[[Message], object]] = {
    "google.protobuf.Timestamp": json_format.MessageToDict,
    "google.protobuf.Struct": lambda struct: _in_order(json_format.MessageToDict(struct)),
}


def encode_message(message: Message) -> dict[str, object]:
    """The message as JSON-ready values, keyed by proto field name. O(size of the message)."""
    fields = cast(list[FieldDescriptor], message.DESCRIPTOR.fields)
    return {field.name: _encode_field(message, field) for field in fields}


def _in_order(value: object) -> object:
    """A struct is a map, which comes in another order each time; people read it better in one."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def dump_json(value: object) -> bytes:
    """Compact UTF-8 JSON; refuses NaN rather than writing something that is not JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _encode_field(message: Message, field: FieldDescriptor) -> object:
    value = getattr(message, field.name)
    if field.is_repeated:
        return _encode_column(list(value), field)
    if field.has_presence and not message.HasField(field.name):
        return None
    return _encode_column([value], field)[0]


def _encode_column(values: list[object], field: FieldDescriptor) -> list[object]:
    """Values of one field; a column at a time, because columns are long and fields few."""
    if field.message_type is not None:
        encode = type_name_to_json.get(field.message_type.full_name, encode_message)
        return [encode(cast(Message, value)) for value in values]
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return [value if math.isfinite(cast(float, value)) else None for value in values]
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return [_shortest_float32(cast(float, value)) for value in values]
    if field.enum_type is not None:
        names = field.enum_type.values_by_number
        return [names[n].name if n in names else n for n in cast(list[int], values)]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return [base64.b64encode(cast(bytes, value)).decode() for value in values]
    return values


def _shortest_float32(value: float) -> float | None:
    """The shortest decimal that reads back as the same float32: 0.3 and not 0.30000001192092896."""
    return float(str(np.float32(value))) if math.isfinite(value) else None
