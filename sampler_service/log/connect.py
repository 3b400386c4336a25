"""From settings to a redis-py client: standalone, TLS, unix socket, Sentinel, Cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ConstantBackoff, NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from sampler_service.log.cluster import ClusterRouter

ConnectionHook = Callable[[AbstractConnection], Awaitable[None]]

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


class RedisSettings(BaseModel):
    """Where the log's server is and how to talk to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """`redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path/to.sock?db=0`,
    `redis+sentinel://host:port,host:port/master/db`, `redis+cluster://host:port,host:port`."""

    username: str | None = None
    """ACL user; over the one in the URL."""

    password: SecretStr | None = None
    """Password; over the one in the URL."""

    sentinel_username: str | None = None
    """ACL user of the Sentinels themselves."""

    sentinel_password: SecretStr | None = None
    """Password of the Sentinels themselves."""

    ca_file: str | None = None
    """PEM file of the authorities to trust; empty: those of the system."""

    cert_file: str | None = None
    """PEM file of our certificate, for servers that ask for one."""

    key_file: str | None = None
    """PEM file of our private key."""

    verify_hostname: bool = True
    """Whether the server's certificate must name its host."""

    key_prefix: Annotated[str, StringConstraints(pattern=r"^[^{}\s]*$")] = "curriculum:"
    """Starts the name of every key. No braces: those mark Cluster hash tags."""

    connect_timeout_seconds: Annotated[float, Field(gt=0)] = 2.0
    """How long connecting may take."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    """How long an answer may take."""

    max_connections: Annotated[int, Field(ge=1)] = 32
    """Connections to the server (per node in a Cluster); further calls wait."""

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"scheme {parts.scheme!r} is not one of {', '.join(_SCHEMES)}")
        _require_plain(parts)
        if parts.scheme == "unix":
            if not parts.path:
                raise ValueError("a unix:// URL needs the path of the socket")
            return url
        nodes = _nodes(parts)
        if not nodes:
            raise ValueError("the URL names no host")
        if parts.scheme.endswith("+sentinel") and not _path_parts(parts):
            raise ValueError("a Sentinel URL needs the master's name: redis+sentinel://host:port/master/db")
        _database(parts)
        return url

    @model_validator(mode="after")
    def _certificate_with_key(self) -> RedisSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    @property
    def kind(self) -> Literal["standalone", "sentinel", "cluster"]:
        """What the URL points to."""
        scheme = urlsplit(self.url).scheme
        if scheme.endswith("+sentinel"):
            return "sentinel"
        return "cluster" if scheme.endswith("+cluster") else "standalone"

    @property
    def address(self) -> str:
        """The URL without its secrets, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_redis(settings: RedisSettings, on_connect: ConnectionHook | None = None) -> Redis | ClusterRouter:
    """A client (nothing is sent yet). `on_connect` greets every new connection, instead of redis-py.

    redis-py's retries are off: the log knows better what may be repeated.
    """
    parts = urlsplit(settings.url)
    common = _common_arguments(settings, parts)
    no_notices = MaintNotificationsConfig(enabled=False)
    single = common | {
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": on_connect,
        "socket_read_size": 1 << 18,
    }
    if settings.kind == "cluster":
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in _nodes(parts)],
            retry=Retry(ConstantBackoff(0.05), 1),
            maint_notifications_config=no_notices,
            **common,
        )
        return ClusterRouter(
            cluster,
            lambda host, port: Redis(host=host, port=port, maint_notifications_config=no_notices, **single),
        )
    single["db"] = _database(parts)
    if settings.kind == "sentinel":
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            _nodes(parts, default_port=26379),
            sentinel_kwargs=_sentinel_arguments(settings, single),
            **single,
        )
        return sentinel.master_for(_path_parts(parts)[0])  # type: ignore[no-any-return]
    single["maint_notifications_config"] = no_notices
    if parts.scheme == "unix":
        return Redis(unix_socket_path=unquote(parts.path), **single)
    host, port = _nodes(parts)[0]
    return Redis(host=host, port=port, **single)


def _common_arguments(settings: RedisSettings, parts: SplitResult) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "socket_timeout": settings.timeout_seconds,
        "socket_connect_timeout": settings.connect_timeout_seconds,
    }
    user, password = _credentials(parts)
    if (username := settings.username or user) is not None:
        arguments["username"] = username
    if settings.password is not None:
        arguments["password"] = settings.password.get_secret_value()
    elif password is not None:
        arguments["password"] = password
    if parts.scheme.startswith("rediss"):
        arguments |= {
            "ssl": True,
            "ssl_ca_certs": settings.ca_file,
            "ssl_certfile": settings.cert_file,
            "ssl_keyfile": settings.key_file,
            "ssl_check_hostname": settings.verify_hostname,
        }
    return arguments


def _sentinel_arguments(settings: RedisSettings, common: dict[str, Any]) -> dict[str, Any]:
    shared = {
        key: value
        for key, value in common.items()
        if key.startswith(("ssl", "socket_timeout", "socket_connect"))
    }
    shared["retry"] = Retry(NoBackoff(), 0)
    if settings.sentinel_username is not None:
        shared["username"] = settings.sentinel_username
    if settings.sentinel_password is not None:
        shared["password"] = settings.sentinel_password.get_secret_value()
    return shared


def _require_plain(parts: SplitResult) -> None:
    """Nothing but what we read. Repeats nothing: what is too much may be the rest of a password."""
    query = parts.query.partition("=")[0] if "&" not in parts.query else "&"
    if parts.fragment or (parts.query and not (parts.scheme == "unix" and query == "db")):
        raise ValueError(
            "the URL has a part after ? or # that means nothing here. In a user or password write those "
            "percent-encoded (%3F, %23), or set redis.username and redis.password"
        )
    if parts.scheme != "unix" and "@" in parts.path:
        raise ValueError(
            "the URL has an @ after its first slash. In a user or password write slashes percent-encoded (%2F), "
            "or set redis.username and redis.password"
        )


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    userinfo, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = userinfo.partition(":")
    return unquote(user) or None, unquote(password) if colon else None


def _nodes(parts: SplitResult, default_port: int = 6379) -> list[tuple[str, int]]:
    nodes = []
    for node in filter(None, parts.netloc.rpartition("@")[2].split(",")):
        try:
            one = urlsplit(f"//{node}")
            nodes.append((one.hostname or "", one.port or default_port))
        except ValueError as error:
            raise ValueError(f"host {node!r}: {error}") from error
        if not nodes[-1][0]:
            raise ValueError(f"host {node!r} has no name")
    return nodes


def _path_parts(parts: SplitResult) -> list[str]:
    return [unquote(part) for part in parts.path.split("/") if part]


def _database(parts: SplitResult) -> int:
    if parts.scheme == "unix":
        values = [
            value for key, _, value in (pair.partition("=") for pair in parts.query.split("&")) if key == "db"
        ]
        text = values[0] if values else "0"
    else:
        path = _path_parts(parts)
        path = path[1:] if parts.scheme.endswith("+sentinel") else path
        if len(path) > 1:
            raise ValueError(f"path {parts.path!r} has too many parts")
        text = path[0] if path else "0"
    if not text.isdigit():
        raise ValueError(f"database {text!r} is not a number")
    if parts.scheme.endswith("+cluster") and text != "0":
        raise ValueError("a Cluster has database 0 only")
    return int(text)
