"""The gRPC server: port, services, and an end that lets running calls finish."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from curriculum.v1 import curriculum_pb2_grpc
from sampler_service.access import AuthSettings, Gate, TlsSettings
from sampler_service.replica import ReplicaHost
from sampler_service.rpc.admission import Admission
from sampler_service.rpc.credentials import server_credentials
from sampler_service.rpc.health import SERVICE_NAME, HealthWatcher
from sampler_service.rpc.interceptors import CallInterceptor
from sampler_service.rpc.limits import RpcSettings
from sampler_service.rpc.open_calls import OpenCalls
from sampler_service.rpc.servicer import CurriculumServicer

__all__ = ["PortTakenError", "RpcServer", "try_to_listen"]


class PortTakenError(OSError):
    """The address cannot be listened on; `errno` and `strerror` say why."""


class RpcServer:
    """CurriculumService, health and reflection on one port. Make it with `start`."""

    def __init__(
        self,
        host: ReplicaHost,
        settings: RpcSettings,
        registry: CollectorRegistry,
        gate: Gate,
        share_port: bool = False,
    ) -> None:
        admission = Admission(gate, settings.max_calls_per_second, max(1, settings.max_concurrent_calls // 2))
        # The rest is for callers of the service itself.
        open_calls = OpenCalls(max(1, settings.max_concurrent_calls // 4))
        self._interceptor = CallInterceptor(registry, admission, open_calls)
        self._servicer = CurriculumServicer(host, settings)
        self._health = HealthWatcher(host)
        # Two services on one port would each get some of the calls: let the second one fail instead,
        # unless they are workers of one parent.
        options = [*settings.channel_options(), ("grpc.so_reuseport", int(share_port))]
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=options,
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
        )
        curriculum_pb2_grpc.add_CurriculumServiceServicer_to_server(self._servicer, self._server)  # type: ignore[no-untyped-call, unused-ignore]
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        names = (SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        self.address = ""

    @classmethod
    async def start(
        cls,
        host: ReplicaHost,
        settings: RpcSettings,
        registry: CollectorRegistry,
        *,
        host_name: str = "127.0.0.1",
        port: int = 0,
        share_port: bool = False,
        gate: Gate | None = None,
        tls: TlsSettings | None = None,
    ) -> RpcServer:
        """Listens and serves; port 0 picks one, see `address`. `share_port`: beside others that do too.
        Without a gate everybody may do everything.

        Raises:
            PortTakenError: somebody else listens there, or the host is not this machine's.
            OSError: a file of TLS cannot be used.
        """
        credentials = server_credentials(tls) if tls is not None and tls.enabled else None
        started = cls(host, settings, registry, gate or Gate(AuthSettings()), share_port)
        literal = f"[{host_name}]" if ":" in host_name else host_name
        if not share_port:
            try_to_listen(host_name, port)
        try:
            address = f"{literal}:{port}"
            bound = (
                started._server.add_insecure_port(address)
                if credentials is None
                else started._server.add_secure_port(address, credentials)
            )
        except RuntimeError as error:
            raise PortTakenError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error
        started.address = f"{literal}:{bound}"
        await started._health.start()
        await started._server.start()
        return started

    async def drain(self, grace_seconds: float) -> None:
        """NOT_SERVING, no new calls, streams end, running calls may finish within `grace_seconds`."""
        await self._health.drain()
        self._servicer.drain()
        stopping = asyncio.create_task(self._server.stop(grace_seconds))
        idle = asyncio.create_task(self._interceptor.until_idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        # Health watches never end by themselves; nobody else is left.
        await asyncio.gather(stopping, self._server.stop(min(grace_seconds, 0.1)))


def try_to_listen(host_name: str, port: int) -> None:
    """Asks the kernel whether one can listen there: gRPC says why not only by writing to stderr.

    Raises:
        PortTakenError: somebody listens there, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        raise PortTakenError(error.errno, error.strerror) from error
