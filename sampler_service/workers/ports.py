"""Ports that workers share or have one each, held by the parent so that a restarted worker finds its own again."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Literal

from sampler_service.rpc import try_to_listen

__all__ = ["ReservedPorts", "kernel_spreads_connections"]


def kernel_spreads_connections() -> bool:
    """Whether listeners that share a port (SO_REUSEPORT) each get some of the connections.

    Linux hashes the addresses of a connection over the listeners. On macOS the option exists, but one
    listener gets them all.
    """
    return sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


class ReservedPorts:
    """One port for all workers, or one for each. Held by sockets that are bound and never listen.

    `ports[i]` is worker i's.
    """

    def __init__(self, host: str, ports: Sequence[int], sockets: Sequence[socket.socket]) -> None:
        self.host = host
        self.ports = list(ports)
        self._sockets = list(sockets)

    @classmethod
    def reserve(
        cls, host: str, port: int, workers: int, kind: Literal["shared", "separate"]
    ) -> ReservedPorts:
        """Binds `port`, or `port`, `port` + 1, …; 0 picks free ones.

        Raises:
            PortTakenError: somebody else listens there, or the host is not this machine's.
        """
        sockets: list[socket.socket] = []
        ports: list[int] = []
        try:
            for number in range(1 if kind == "shared" else workers):
                wanted = port + number if port else 0
                # Without sharing first: a service of another parent must not get some of our connections.
                try_to_listen(host, wanted)
                holder = _bind(host, wanted)
                sockets.append(holder)
                ports.append(holder.getsockname()[1])
        except OSError:
            for holder in sockets:
                holder.close()
            raise
        return cls(host, ports * workers if kind == "shared" else ports, sockets)

    @property
    def addresses(self) -> str:
        """Each address once, with commas between them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return ",".join(f"{host}:{port}" for port in dict.fromkeys(self.ports))

    def release(self) -> None:
        """Gives the ports free."""
        for holder in self._sockets:
            with contextlib.suppress(OSError):
                holder.close()


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    holder = socket.socket(family, kind, protocol)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder
