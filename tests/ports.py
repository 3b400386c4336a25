"""Ports for what tests start: none that the kernel gives away by itself, none that another test has chosen."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from pathlib import Path
from typing import Final

_KERNELS_OWN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback that nobody listens on, kept from other tests while this process lives.

    It is not one of those that the kernel picks for outgoing connections: between the choice of such a port and
    its use, or while a server that is to come back is away, any connection of any process could take it.
    """
    return free_ports_apart(0)


def free_ports_apart(distance: int) -> int:
    """The lower of two such ports. A Cluster node's bus is 10,000 above its port: Redis 6.2 knows no option."""
    candidates = _candidates()
    outside = set(candidates)
    for port in candidates:
        both = {port, port + distance}
        if both <= outside and (reservations := _take(both)) is not None:
            _reserved.extend(reservations)
            return port
    raise AssertionError("no port of the loopback is free")


def _take(ports: set[int]) -> list[socket.socket] | None:
    """Reservations of all these ports, or of none."""
    with contextlib.ExitStack() as undo:
        reservations = []
        for port in ports:
            reservation = _reserve(port)
            if reservation is None:
                return None
            reservations.append(undo.enter_context(reservation))
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    return None
        undo.pop_all()
        return reservations


def _candidates() -> list[int]:
    """Ports outside the kernel's range, in an order that no two processes share."""
    low, high = map(int, _KERNELS_OWN.read_text().split()) if _KERNELS_OWN.exists() else (49_152, 65_535)
    ports = [*range(_LOWEST, low), *range(high + 1, 65_536)]
    random.SystemRandom().shuffle(ports)
    return ports


def _reserve(port: int) -> socket.socket | None:
    """A name that only one process of this machine can hold, and that ends with the process; None if taken."""
    holder = socket.socket(socket.AF_UNIX)
    if sys.platform != "linux":
        return holder  # No abstract names there: the listener's own check has to do.
    try:
        holder.bind(f"\0curriculum-test-port-{port}")
    except OSError:
        holder.close()
        return None
    return holder
