"""`healthcheck`: for container probes and scripts."""

from __future__ import annotations

import json
import ssl
import urllib.request
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sampler_service.cli.calls import DEFAULT_TARGET, JsonOption, TargetOption, TimeoutOption
from sampler_service.cli.connection import open_channel

__all__ = ["healthcheck"]


def healthcheck(
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 2.0,
    http: Annotated[
        str,
        typer.Option(
            help="Ask /readyz at this http:// or https:// address instead; its certificate is not verified."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Exit with 0 if the service answers SERVING, else with 1."""
    status, detail = _ask_http(http, timeout) if http else _ask_grpc(target, timeout)
    if as_json:
        typer.echo(json.dumps({"status": status, "detail": detail}))
    else:
        typer.echo(detail or status, err=status != "SERVING")
    if status != "SERVING":
        raise typer.Exit(1)


def _ask_grpc(target: str, timeout: float) -> tuple[str, str]:
    with open_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else str(error)
            return "UNREACHABLE", f"not reachable at {target}: {code}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), ""


def _ask_http(address: str, timeout_seconds: float) -> tuple[str, str]:
    """A probe asks whether somebody answers, not who: nothing secret is sent."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(
            f"{address.rstrip('/')}/readyz", timeout=timeout_seconds, context=unverified
        ):
            return "SERVING", ""
    except (OSError, ValueError) as error:
        return "UNREACHABLE", f"not ready at {address}: {error}"
