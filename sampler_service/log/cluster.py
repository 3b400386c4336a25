"""Which node of a Cluster holds a key, as a plain client of that node.

All keys of a curriculum lie in one slot, so every operation concerns one node. Its plain client runs
transactions as on a single server; redis-py's own Cluster transactions start a thread per command.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError


class ClusterRouter:
    """Knows the Cluster's map and keeps one client per node."""

    def __init__(self, cluster: RedisCluster, open_node: Callable[[str, int], Redis]) -> None:
        self._cluster = cluster
        self._open_node = open_node
        self._nodes: dict[str, Redis] = {}
        self._stale = False
        self._refreshing = asyncio.Lock()

    async def node_of(self, key: str) -> Redis:
        """The client of the primary that holds `key`. The map is fetched first where it is not known."""
        async with self._refreshing:
            if self._stale:
                with contextlib.suppress(RedisError, OSError):
                    await self._cluster.aclose()
                self._stale = False
            await self._cluster.initialize()
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisError(f"CLUSTERDOWN no node serves the slot of {key}")
        if node.name not in self._nodes:
            self._nodes[node.name] = self._open_node(str(node.host), int(node.port))
        return self._nodes[node.name]

    def forget_map(self) -> None:
        """A node refused a key or did not answer: fetch the map anew before the next operation."""
        self._stale = True

    async def drop_idle_connections(self) -> None:
        """Close what lies unused."""
        for node in self._nodes.values():
            await node.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Close every connection."""
        for node in self._nodes.values():
            await node.aclose()
        await self._cluster.aclose()
