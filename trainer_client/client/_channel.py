"""Where the service is and how to talk to it: target, TLS, retries, keepalive, sizes."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from trainer_client.client._status import invalid
from trainer_client.client._tracing import trace_metadata

__all__ = ["DEFAULT_MAX_MESSAGE_BYTES", "Endpoint", "Tls"]

DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_SERVICES = ("curriculum.v1.CurriculumService", "grpc.health.v1.Health")
# gRPC takes at most five attempts per call and, when time runs out between two, forgets why it tried
# again. So it bridges short gaps; longer ones are the client's, which remembers the reason.
_RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for an encrypted channel. Without any, the system's roots are trusted."""

    root_certificates: Path | str | None = None
    """Authorities to trust in place of the system's."""
    certificate: Path | str | None = None
    """The client's own certificate chain, for mutual TLS."""
    private_key: Path | str | None = field(default=None, repr=False)
    """Key of `certificate`."""
    server_name: str | None = None
    """Name to expect in the server's certificate, where it differs from the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises `OSError` when one cannot be read."""
        if (self.certificate is None) != (self.private_key is None):
            raise invalid("tls", "certificate and private_key go together; give both or neither")
        root, key, chain = (
            None if path is None else Path(path).read_bytes()
            for path in (self.root_certificates, self.private_key, self.certificate)
        )
        return grpc.ssl_channel_credentials(root, key, chain)


@dataclass(frozen=True)
class Endpoint:
    """A resolved target with its credentials and channel options."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, int | str], ...]
    authorization: tuple[tuple[str, str], ...] = field(repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries: the token, and which span it belongs to."""
        return (*self.authorization, *trace_metadata())

    @classmethod
    def make(
        cls, target: str, *, token: str | None, tls: bool | Tls | None, max_message_bytes: int
    ) -> Endpoint:
        """Resolves the arguments of a client.

        What is None is taken from the environment, see `environment_token` and `environment_tls`; if that
        says nothing of TLS either, it is used when a token would otherwise cross the network in the clear.
        """
        if not target or target != target.strip():
            raise invalid("target", f"is {target!r}; expected host:port, dns:///host:port or unix:path")
        if max_message_bytes < 1:
            raise invalid("max_message_bytes", f"is {max_message_bytes}; must be at least 1")
        resolved, has_several, is_local = _resolve(target)
        token = environment_token() if token is None else token or None
        if token is not None and not (token.isascii() and token.isprintable()):
            raise invalid("token", "holds characters that no token has; check where it was copied from")
        if tls is None:
            tls = environment_tls()
        if tls is None:
            tls = token is not None and not is_local
        if tls is True:
            tls = Tls()
        return cls(
            target=resolved,
            credentials=tls.credentials() if isinstance(tls, Tls) else None,
            options=_options(
                has_several, max_message_bytes, tls.server_name if isinstance(tls, Tls) else None
            ),
            authorization=(("authorization", f"Bearer {token}"),) if token is not None else (),
        )


def environment_token() -> str | None:
    """The token in `SAMPLER_TOKEN`, or in the file that `SAMPLER_TOKEN_FILE` names."""
    token = os.environ.get("SAMPLER_TOKEN", "").strip()
    file = os.environ.get("SAMPLER_TOKEN_FILE", "")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise invalid("token", f"SAMPLER_TOKEN_FILE {file}: {error.strerror}") from error
    return token or None


def environment_tls() -> bool | Tls | None:
    """TLS by `SAMPLER_CLIENT_TLS` (true, false) and `SAMPLER_CLIENT_{CA,CERT,KEY}_FILE`, `..._SERVER_NAME`."""
    said = os.environ.get("SAMPLER_CLIENT_TLS", "").lower()
    if said in {"0", "false", "no", "off"}:
        return False
    if said not in {"", "1", "true", "yes", "on"}:
        raise invalid("tls", f"SAMPLER_CLIENT_TLS is {said!r}; expected true or false")
    given = {
        field: os.environ.get(f"SAMPLER_CLIENT_{name}") or None
        for field, name in (
            ("root_certificates", "CA_FILE"),
            ("certificate", "CERT_FILE"),
            ("private_key", "KEY_FILE"),
            ("server_name", "SERVER_NAME"),
        )
    }
    return Tls(**given) if said or any(given.values()) else None


def _resolve(target: str) -> tuple[str, bool, bool]:
    """Gives the target with a scheme, whether it may stand for several addresses, and whether it is this machine."""
    scheme, separator, rest = target.partition(":")
    if separator and scheme in {"unix", "unix-abstract", "ipv4", "ipv6", "xds", "vsock"}:
        addresses = rest.lstrip("/").split(",")
        local = scheme.startswith("unix") or all(one.startswith(("127.", "[::1]")) for one in addresses)
        return target, "," in rest, local
    is_dns_scheme = scheme == "dns" and separator == ":"
    authority = rest.removeprefix("///") if is_dns_scheme else target
    host = authority.rsplit("/", 1)[-1].rsplit(":", 1)[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost":
            return target, False, True
        return (target if is_dns_scheme else f"dns:///{target}"), True, False
    return target, False, address.is_loopback


def _options(
    has_several: bool, max_message_bytes: int, server_name: str | None
) -> tuple[tuple[str, int | str], ...]:
    service_config: dict[str, object] = {
        "methodConfig": [{"name": [{"service": name} for name in _SERVICES], "retryPolicy": _RETRY_POLICY}]
    }
    if has_several:
        # One connection per replica instead of all calls on the first address.
        service_config["loadBalancingConfig"] = [{"round_robin": {}}]
    options: list[tuple[str, int | str]] = [
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(service_config)),
        # The deployment's own service config must not switch the retries off.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # A restarted service is found again within seconds, not minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return tuple(options)
