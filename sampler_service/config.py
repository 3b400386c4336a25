"""The service's configuration: one model, four sources.

Command line options win over `SAMPLER_…` environment variables (`__` goes one level down, as in
`SAMPLER_REDIS__URL`), those over the YAML file, that over the defaults.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sampler_service.access import AuthSettings, TlsSettings
from sampler_service.dashboard import HttpSettings
from sampler_service.log import RedisSettings
from sampler_service.replica import ReplicaSettings
from sampler_service.rpc import RpcSettings

__all__ = ["ConfigError", "ServiceConfig", "is_loopback", "load_config", "unknown_variables"]

_PREFIX = "SAMPLER_"
# What Kubernetes sets for a service that happens to be called `sampler-…`.
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")

# Fields whose values are never repeated: secrets, and what may hold one.
_SECRET = re.compile(r"password|url|token|^auth")
# What our own programs read, and the service does not.
_OTHERS = re.compile(r"TARGET|CONFIG|TOKEN|TOKEN_FILE|CLIENT_\w+")


class ConfigError(ValueError):
    """The configuration cannot be used; one line per fault, each naming the field and where it came from."""


class ServiceConfig(BaseSettings):
    """How one service process runs."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    grpc_host: str = "127.0.0.1"
    """Address the API listens on. Beyond loopback it needs `auth`, or `insecure`."""
    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """Port of the API; 0 picks one."""
    http_host: str = "127.0.0.1"
    """Address the dashboard listens on; likewise."""
    http_port: int = Field(default=8080, ge=-1, le=65535)
    """Port of the dashboard, /metrics and the probes; 0 picks one, -1 turns them off."""
    insecure: bool = False
    """Listen beyond loopback without `auth`: whoever reaches the ports may read and change everything."""
    data_dir: Path = Path("curriculum-data")
    """Where the embedded server keeps the log, when no `redis` is given."""
    redis: RedisSettings | None = None
    """A Redis or Valkey server that keeps the log, shared by any number of services."""
    appendfsync: Literal["always", "everysec", "no"] = "everysec"
    """When the embedded server writes to disk: before each answer, every second, or when the kernel does."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    log_format: Literal["console", "json"] = "console"
    """Lines for people, or one JSON object each."""
    workers: int = Field(default=1, ge=1, le=256)
    """Equal replica processes behind one address, each with curricula and memory of its own."""
    worker_ports: Literal["auto", "shared", "separate"] = "auto"
    """Workers share the ports (the kernel spreads connections) or take `port`, `port` + 1, …; auto: shared on Linux."""
    worker_silence_seconds: float = Field(default=60.0, ge=0, le=3600)
    """A worker whose event loop gives no sign of life for this long hangs: it is killed and started again. 0: never."""
    drain_seconds: float = Field(default=25.0, ge=0, le=3600)
    """How long running calls may still take after SIGTERM."""
    replica: ReplicaSettings = ReplicaSettings()
    """How curricula are kept in memory and snapshotted."""
    rpc: RpcSettings = RpcSettings()
    """Limits of connections and messages."""
    http: HttpSettings = HttpSettings()
    """Limits of the dashboard's port, and the proxies before it."""
    auth: AuthSettings = AuthSettings()
    """Who may use the service."""
    tls: TlsSettings = TlsSettings()
    """Certificates of both ports."""

    @model_validator(mode="after")
    def _ports_for_all_workers(self) -> ServiceConfig:
        if self.workers > 1 and self.worker_ports == "separate":
            for field, port in (("grpc_port", self.grpc_port), ("http_port", self.http_port)):
                if port + self.workers - 1 > 65535:
                    raise ValueError(
                        f"{field} = {port} leaves no room for {self.workers} workers with separate ports; "
                        f"choose {65536 - self.workers} or less, or 0"
                    )
        return self

    @model_validator(mode="after")
    def _open_only_on_purpose(self) -> ServiceConfig:
        for field, host in (("grpc_host", self.grpc_host), ("http_host", self.http_host)):
            if not (self.insecure or self.auth.enabled or is_loopback(host)):
                raise ValueError(
                    f"{field} = {host!r} is reachable by others, and no tokens are set: whoever reaches the "
                    "port could read and change every curriculum. Make a token (`sampler-service tokens create "
                    "admin --role admin --token-file tokens.yaml`) and give the service the file (--token-file "
                    "tokens.yaml), or a token in SAMPLER_AUTH__ADMIN_TOKEN; use 127.0.0.1; or say --insecure if "
                    "a firewall or proxy guards it"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: `load_config` merges the sources, to know where a value came from."""
        return (init_settings,)

    def to_yaml(self) -> str:
        """The effective configuration, secrets masked."""
        plain = self.model_dump(mode="json")
        if self.redis is not None:
            plain["redis"]["url"] = _without_secrets(self.redis.url)
        # An embedded log and a server exclude each other: show the one in force.
        plain.pop("data_dir" if self.redis is not None else "redis")
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


class _Source(NamedTuple):
    name: str
    values: dict[str, Any]


def load_config(options: Mapping[str, Any], file: Path | None = None) -> ServiceConfig:
    """The configuration from all sources.

    Args:
        options: what the command line gave, nested as in the model.
        file: YAML, keys as in the model.

    Raises:
        ConfigError: what is wrong, in which field, from which source.
    """
    sources = [
        _Source("the command line", dict(options)),
        _Source("the environment", _environment()),
        _Source(str(file), _read_yaml(file) if file is not None else {}),
    ]
    merged: dict[str, Any] = {}
    for source in sources:
        # The log lies in one place: who names it later in the order does not count.
        if not _names_log(merged):
            if "redis" in source.values and "data_dir" in source.values:
                raise ConfigError(
                    f"redis and data_dir (from {source.name}) exclude each other: the log is kept by a "
                    "server of yours (--redis-url) or in a directory (--data-dir)"
                )
            lower = source.values
        elif "redis" in merged:
            lower = {key: value for key, value in source.values.items() if key != "data_dir"}
        else:
            lower = {key: value for key, value in source.values.items() if key != "redis"}
        merged = _beneath(merged, lower)
    try:
        return ServiceConfig(**merged)
    except ValidationError as error:
        faults = [_describe(dict(fault), sources) for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that begin like ours and mean nothing to us: typing errors, most likely."""
    fields = ServiceConfig.model_fields
    return sorted(
        name
        for name in environ
        if name.startswith(_PREFIX)
        and name.removeprefix(_PREFIX).lower().partition("__")[0] not in fields
        and not _KUBERNETES.search(name)
        and not _OTHERS.fullmatch(name.removeprefix(_PREFIX))
    )


def _environment() -> dict[str, Any]:
    try:
        return dict(EnvSettingsSource(ServiceConfig)())
    except SettingsError as error:
        raise ConfigError(f"the environment: {error}: {error.__cause__}") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the file {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file {file} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the file {file} holds a {type(values).__name__}; it needs `name: value` lines")
    return values


def _names_log(values: Mapping[str, Any]) -> bool:
    return "redis" in values or "data_dir" in values


def _beneath(upper: dict[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """`upper`, with what only `lower` says."""
    merged = {**lower, **upper}
    for key in upper.keys() & lower.keys():
        if isinstance(upper[key], dict) and isinstance(lower[key], dict):
            merged[key] = _beneath(upper[key], lower[key])
    return merged


def _describe(fault: dict[str, Any], sources: list[_Source]) -> str:
    path = [str(part) for part in fault["loc"]]
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    name = ".".join(path)
    origin = next((source.name for source in sources if _holds(source.values, path)), "")
    if origin == "the environment":
        origin = f"environment variable {_PREFIX}{'__'.join(path).upper()}"
    where = f" (from {origin})" if origin else ""
    if fault["type"] == "extra_forbidden":
        return f"{name}{where} is no setting of this service; `sampler-service config` lists them"
    value = "" if fault["type"] == "missing" or _SECRET.search(name) else f" = {fault['input']!r}"
    return f"{name}{value}{where}: {message}"


def _holds(values: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    secret, at, place = parts.netloc.rpartition("@")
    user = secret.partition(":")[0]
    masked = f"{user}:***{at}{place}" if ":" in secret else parts.netloc
    return urlunsplit(parts._replace(netloc=masked))
