"""Tokens of every kind for tests, and calls of any RPC with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import message_factory

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import AuthSettings, Credential, Role
from sampler_service.access.credentials import digest

SERVICE = pb.DESCRIPTOR.services_by_name["CurriculumService"]
RPCS = [method.name for method in SERVICE.methods]

TOKENS = {role: f"the-token-of-somebody-who-may-{role}" for role in Role}
TEAM_A = "the-admin-token-of-team-a-alone"
EXPIRED = "a-token-that-was-good-once"


def _credential(name: str, token: str, role: Role, **more: Any) -> Credential:
    return Credential(name=name, sha256=digest(token), role=role, **more)


def auth_settings(**more: Any) -> AuthSettings:
    """Knows all of the above."""
    return AuthSettings(
        tokens=(
            *(_credential(str(role), token, role) for role, token in TOKENS.items()),
            _credential("team a", TEAM_A, Role.ADMIN, curricula=("team-a.*",)),
            _credential("past", EXPIRED, Role.ADMIN, expires=datetime(2020, 1, 1, tzinfo=UTC)),
        ),
        **more,
    )


def bearer(token: str | None) -> Sequence[tuple[str, str]]:
    """Metadata, or headers."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


async def call_any(
    channel: grpc.aio.Channel, name: str, *, token: str | None, curriculum_id: str = "math"
) -> Any:
    """Calls the RPC of that name, whatever its kind, with a request that names the curriculum only."""
    method = SERVICE.methods_by_name[name]
    request_class = message_factory.GetMessageClass(method.input_type)
    fields = {"curriculum_id": curriculum_id, "request_id": "r"}
    known = {field.name for field in method.input_type.fields}
    request = request_class(**{key: value for key, value in fields.items() if key in known})
    streams = (method.client_streaming, method.server_streaming)
    kind = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[streams]
    stub: Any = kind(  # type: ignore[operator]
        f"/{SERVICE.full_name}/{name}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    call = stub(iter([request]) if method.client_streaming else request, metadata=bearer(token), timeout=120)
    if not method.server_streaming:
        return await call
    async for answer in call:
        return answer
    return None
