"""OpenAPI schemas read off the proto descriptors, in the shape that `encoding` writes."""

from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Schema = dict[str, Any]

_NUMBERS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}

_ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("code", "reason", "message", "field")},
            "required": ["code", "reason", "message"],
        }
    },
    "required": ["error"],
}


def answers(message: type[Message] | None, media_type: str = "application/json") -> dict[int | str, Schema]:
    """The `responses` of a route: 200 with the message's schema, anything else in the error shape."""
    schema = message_schema(cast(Descriptor, message.DESCRIPTOR)) if message is not None else {}
    return {
        200: {"description": "OK", "content": {media_type: {"schema": schema}}},
        422: {"description": "Never sent: a bad parameter is answered with 400."},
        "default": {"description": "A refusal", "content": {"application/json": {"schema": _ERROR}}},
    }


def message_schema(descriptor: Descriptor) -> Schema:
    """JSON schema of a message: every field present, int64 a number, absent and NaN null."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        return {"type": "string", "format": "date-time"}
    if descriptor.full_name == "google.protobuf.Struct":
        return {"type": "object", "additionalProperties": True}
    return {
        "title": descriptor.name,
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in descriptor.fields},
        "required": [field.name for field in descriptor.fields],
    }


def _field_schema(field: FieldDescriptor) -> Schema:
    schema = _value_schema(field)
    if field.is_repeated:
        return {"type": "array", "items": schema}
    return {"anyOf": [schema, {"type": "null"}]} if field.has_presence else schema


def _value_schema(field: FieldDescriptor) -> Schema:
    if field.message_type is not None:
        return message_schema(field.message_type)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.cpp_type in _NUMBERS:
        return {"type": ["number", "null"]}
    if field.cpp_type in _INTEGERS:
        return {"type": "integer"}
    return {"type": "boolean" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "string"}
