"""How the commands reach a service: token and TLS, from options before the command or the environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
import typer

__all__ = ["Connection", "choose", "open_channel"]

MAX_MESSAGE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Connection:
    """What a client of a guarded service needs; nothing of it for an open one on this machine."""

    token_file: Path | None = None
    """Holds the token to send with every call; without it `SAMPLER_TOKEN` does, or there is none."""
    tls: bool | None = None
    """None: when a file below is given, or a token would cross the network in the clear."""
    ca_file: Path | None = None
    """Authorities to trust in place of the system's."""
    cert_file: Path | None = None
    """Our own certificate, for mutual TLS."""
    key_file: Path | None = field(default=None, repr=False)
    """Its private key."""
    server_name: str = ""
    """Name to expect in the server's certificate, where it differs from the target."""

    def open(self, target: str) -> grpc.Channel:
        """A channel to the target, with the token on every call."""
        token = self._token()
        # Whoever watches wants to know soon that a service is back.
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        files = (self.ca_file, self.cert_file, self.key_file)
        encrypted = self.tls
        if encrypted is None:
            encrypted = any(files) or bool(token and not _is_local(target))
        if not encrypted:
            channel = grpc.insecure_channel(target, options=options)
        else:
            root, certificate, key = (
                None if file is None else _read(file, option)
                for file, option in zip(files, ("--ca-file", "--cert-file", "--key-file"), strict=True)
            )
            if (certificate is None) != (key is None):
                _refuse("the certificate and its key go together; give both or neither", "--cert-file")
            if self.server_name:
                options.append(("grpc.ssl_target_name_override", self.server_name))  # type: ignore[arg-type]
            credentials = grpc.ssl_channel_credentials(root, key, certificate)
            channel = grpc.secure_channel(target, credentials, options=options)
        return grpc.intercept_channel(channel, _WithToken(token)) if token else channel

    def _token(self) -> str:
        token = os.environ.get("SAMPLER_TOKEN", "")
        if self.token_file is not None:
            token = _read(self.token_file, "--token-file").decode(errors="replace")
        token = token.strip()
        if not (token.isascii() and (token.isprintable() or not token)):
            _refuse("the token holds characters that no token has", "SAMPLER_TOKEN or --token-file")
        return token


_chosen: ContextVar[Connection] = ContextVar("connection", default=Connection())  # noqa: B039


def choose(connection: Connection) -> None:
    """The connection of the command that runs."""
    _chosen.set(connection)


def open_channel(target: str) -> grpc.Channel:
    """A channel by the options of the command that runs."""
    return _chosen.get().open(target)


class _WithToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the authorization to every call."""

    def __init__(self, token: str) -> None:
        self._entry = ("authorization", f"Bearer {token}")

    def _add(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), self._entry)
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_unary = _add  # type: ignore[assignment]
    intercept_unary_stream = _add  # type: ignore[assignment]
    intercept_stream_unary = _add  # type: ignore[assignment]
    intercept_stream_stream = _add  # type: ignore[assignment]


def _is_local(target: str) -> bool:
    """Whether every address in it is this machine's; it may be several: `ipv4:127.0.0.1:1,127.0.0.1:2`."""
    if target.startswith("unix"):
        return True
    addresses = target.removeprefix("ipv4:").removeprefix("ipv6:").rsplit("/", 1)[-1].split(",")
    return all(_is_loopback(address.rsplit(":", 1)[0].strip("[]")) for address in addresses)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(file: Path, option: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        _refuse(f"{file}: {error.strerror}", option)


def _refuse(message: str, option: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)
