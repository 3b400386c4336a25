"""`serve` and `config`: both take the options of the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from sampler_service.cli.calls import JsonOption

if TYPE_CHECKING:
    from sampler_service.config import ServiceConfig

__all__ = ["serve", "show_config"]

_File = Annotated[
    Path | None, typer.Option("--config", envvar="SAMPLER_CONFIG", help="YAML file with settings.")
]
_RedisUrl = Annotated[
    str | None,
    typer.Option(
        help="Redis or Valkey that keeps the log: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://."
    ),
]
_DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Directory of the embedded log, used when there is no --redis-url. [default: ./curriculum-data]"
    ),
]
_GrpcHost = Annotated[str | None, typer.Option(help="Address of the API. [default: 127.0.0.1]")]
_GrpcPort = Annotated[int | None, typer.Option(help="Port of the API; 0 picks one. [default: 50051]")]
_HttpHost = Annotated[str | None, typer.Option(help="Address of the dashboard. [default: 127.0.0.1]")]
_HttpPort = Annotated[
    int | None,
    typer.Option(help="Port of dashboard, /metrics and probes; 0 picks one, -1 is none. [default: 8080]"),
]
_NoDashboard = Annotated[bool, typer.Option("--no-dashboard", help="No HTTP at all: --http-port -1.")]
_Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Allow addresses beyond loopback without tokens: "
        "whoever reaches the ports may read and change everything.",
    ),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option(help="Who may use the service: a file of `sampler-service tokens create`."),
]
_TlsCert = Annotated[Path | None, typer.Option(help="PEM file of the certificate of both ports.")]
_TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its private key.")]
_TlsClientCa = Annotated[
    Path | None,
    typer.Option(help="PEM file of authorities: gRPC clients then need a certificate of theirs."),
]
_Fsync = Annotated[
    str | None,
    typer.Option(
        "--appendfsync",
        help="The embedded log is written to disk: always, everysec or no. [default: everysec]",
    ),
]
_LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")]
_LogFormat = Annotated[str | None, typer.Option(help="console or json. [default: console]")]
_Workers = Annotated[
    int | None,
    typer.Option(
        help="Replica processes behind one address, each using about one core; restarted when they crash. [default: 1]"
    ),
]
_WorkerPorts = Annotated[
    str | None,
    typer.Option(
        help="Workers on shared ports, or separate ones (port, port + 1, ...): auto, shared or separate. "
        "[default: auto, which is shared on Linux]"
    ),
]
_DrainSeconds = Annotated[
    float | None, typer.Option(help="How long running calls may take after SIGTERM. [default: 25]")
]

# Options of the flat command line that lie deeper in the configuration.
_NESTED = {
    "token_file": ("auth", "token_file"),
    "tls_cert": ("tls", "cert_file"),
    "tls_key": ("tls", "key_file"),
    "tls_client_ca": ("tls", "client_ca_file"),
}


def serve(
    redis_url: _RedisUrl = None,
    data_dir: _DataDir = None,
    grpc_host: _GrpcHost = None,
    grpc_port: _GrpcPort = None,
    http_host: _HttpHost = None,
    http_port: _HttpPort = None,
    no_dashboard: _NoDashboard = False,
    insecure: _Insecure = False,
    token_file: _TokenFile = None,
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    tls_client_ca: _TlsClientCa = None,
    appendfsync: _Fsync = None,
    log_level: _LogLevel = None,
    log_format: _LogFormat = None,
    workers: _Workers = None,
    worker_ports: _WorkerPorts = None,
    drain_seconds: _DrainSeconds = None,
    config: _File = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Options win over SAMPLER_… environment variables, those over --config, that over the defaults
    (`sampler-service config` shows what comes out). Prints `ready grpc=HOST:PORT http=HOST:PORT` when it serves.
    With --workers a parent starts that many replicas on one log and restarts those that end.
    """
    chosen = _load(locals())
    if chosen.workers > 1:
        from sampler_service.workers import run
    else:
        from sampler_service.server import run
    raise typer.Exit(run(chosen))


def show_config(
    redis_url: _RedisUrl = None,
    data_dir: _DataDir = None,
    grpc_host: _GrpcHost = None,
    grpc_port: _GrpcPort = None,
    http_host: _HttpHost = None,
    http_port: _HttpPort = None,
    no_dashboard: _NoDashboard = False,
    insecure: _Insecure = False,
    token_file: _TokenFile = None,
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    tls_client_ca: _TlsClientCa = None,
    appendfsync: _Fsync = None,
    log_level: _LogLevel = None,
    log_format: _LogFormat = None,
    workers: _Workers = None,
    worker_ports: _WorkerPorts = None,
    drain_seconds: _DrainSeconds = None,
    config: _File = None,
    as_json: JsonOption = False,
) -> None:
    """Print the configuration that `serve` would use with the same options, as YAML, secrets masked."""
    given = {name: value for name, value in locals().items() if name != "as_json"}
    text = _load(given).to_yaml()
    typer.echo(json.dumps(yaml.safe_load(text), indent=2) if as_json else text, nl=as_json)


def _load(given: dict[str, Any]) -> ServiceConfig:
    """The configuration, or exit status 2 with a line per fault."""
    from sampler_service.config import ConfigError, load_config

    options = {name: value for name, value in given.items() if value is not None and value is not False}
    file = options.pop("config", None)
    if options.pop("no_dashboard", False):
        options["http_port"] = -1
    redis_url = options.pop("redis_url", None)
    if redis_url is not None:
        options["redis"] = {"url": redis_url}
    for option, (group, field) in _NESTED.items():
        if option in options:
            options.setdefault(group, {})[field] = options.pop(option)
    try:
        return load_config(options, file)
    except ConfigError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2) from None
