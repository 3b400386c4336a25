"""The standard health service, without the package that ships its stubs.

The two messages are described here in a descriptor pool of their own, so that a process
which also imports grpcio-health-checking sees no clash.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

__all__ = ["CHECK_METHOD", "Health", "health_request", "parse_health"]

CHECK_METHOD = "/grpc.health.v1.Health/Check"


class Health(IntEnum):
    """What the service says of itself (`grpc.health.v1`)."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    """Reachable, but still catching up with its log or draining."""
    SERVICE_UNKNOWN = 3


def _message_class(
    name: str, field: str, field_type: descriptor_pb2.FieldDescriptorProto.Type.ValueType
) -> Callable[..., Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"trainer_client/health_{name}.proto", package="grpc.health.v1", syntax="proto3"
    )
    file.message_type.add(name=name).field.add(
        name=field, number=1, type=field_type, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"grpc.health.v1.{name}")
    return cast(Callable[..., Message], message_factory.GetMessageClass(descriptor))


_Request = _message_class("HealthCheckRequest", "service", descriptor_pb2.FieldDescriptorProto.TYPE_STRING)
# On the wire an enum is an int32.
_Response = _message_class("HealthCheckResponse", "status", descriptor_pb2.FieldDescriptorProto.TYPE_INT32)


def health_request(service: str) -> bytes:
    """A serialized `HealthCheckRequest`; "" asks for the server as a whole."""
    return _Request(service=service).SerializeToString()


def parse_health(serialized: bytes) -> Health:
    """Reads a serialized `HealthCheckResponse`."""
    response = _Response()
    response.ParseFromString(serialized)
    try:
        return Health(response.status)  # type: ignore[attr-defined]
    except ValueError:
        return Health.UNKNOWN
