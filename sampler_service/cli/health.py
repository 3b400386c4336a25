"""`healthcheck`: for container probes and scripts."""

from __future__ import annotations

import ssl
import urllib.request
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sampler_service.cli.calls import DEFAULT_TARGET, TargetOption, TimeoutOption
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
) -> None:
    """Exit with 0 if the service answers SERVING, else with 1."""
    if http:
        _ask_http(http, timeout)
        return
    with open_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else str(error)
            typer.echo(f"not reachable at {target}: {code}", err=True)
            raise typer.Exit(1) from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(name, err=name != "SERVING")
    if name != "SERVING":
        raise typer.Exit(1)


def _ask_http(address: str, timeout_seconds: float) -> None:
    """A probe asks whether somebody answers, not who: nothing secret is sent."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(
            f"{address.rstrip('/')}/readyz", timeout=timeout_seconds, context=unverified
        ):
            typer.echo("SERVING")
    except (OSError, ValueError) as error:
        typer.echo(f"not ready at {address}: {error}", err=True)
        raise typer.Exit(1) from None
