"""`healthcheck`: for container probes and scripts."""

from __future__ import annotations

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sampler_service.cli.calls import DEFAULT_TARGET, TargetOption, TimeoutOption

__all__ = ["healthcheck"]


def healthcheck(target: TargetOption = DEFAULT_TARGET, timeout: TimeoutOption = 2.0) -> None:
    """Exit with 0 if the service answers SERVING, else with 1."""
    with grpc.insecure_channel(target) as channel:
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
