"""Is this server fit to hold a log? Warnings for people, in plain words."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sampler_service.log.errors import ServerUnsuitableError

OLDEST_VERSION = (6, 2)
"""Exclusive ranges, NOMKSTREAM and MINID came with Redis 6.2; every Valkey has them."""

NEEDED = "the log needs Redis 6.2 or newer, or any Valkey"


async def check_server(redis: Redis) -> list[str]:
    """Warnings about settings that can lose data. `ServerUnsuitableError` if the version is too old.

    Managed servers that forbid CONFIG are tolerated: what INFO does not tell is then unknown, and said so.
    """
    info = await _info(redis)
    warnings = []
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("redis_version", "0"))
    if _version(version) < OLDEST_VERSION:
        raise ServerUnsuitableError(f"{NEEDED}; this server is {name} {version}")
    if not info.get("aof_enabled"):
        warnings.append(
            "appendonly is off: a restart of the server loses everything since its last RDB save. "
            "Set 'appendonly yes'."
        )
    config = await _config(redis)
    policy = str(info.get("maxmemory_policy") or config.get("maxmemory-policy", ""))
    if policy and policy != "noeviction":
        warnings.append(
            f"maxmemory-policy is '{policy}': under memory pressure the server may throw curricula away. "
            "Set 'maxmemory-policy noeviction'."
        )
    fsync = config.get("appendfsync")
    if fsync == "no":
        warnings.append(
            "appendfsync is 'no': if the host dies, what the kernel has not written (up to 30 s) is lost. "
            "Set 'appendfsync everysec' or 'always'."
        )
    if not config and info.get("aof_enabled"):
        warnings.append("the server forbids CONFIG, so appendfsync is unknown: ask its operator.")
    if info.get("role") == "slave":
        warnings.append("this server is a read-only replica: writes will fail until it is promoted.")
    return warnings


async def _info(redis: Redis) -> dict[str, Any]:
    return await redis.info()


async def _config(redis: Redis) -> dict[str, str]:
    # One pattern per command: lists of patterns came with Redis 7.
    found: dict[str, str] = {}
    try:
        for pattern in ("maxmemory-policy", "appendfsync"):
            reply = await redis.config_get(pattern)
            found |= {_text(key): _text(value) for key, value in reply.items()}
    except ResponseError:
        # Unknown command, renamed, or not permitted: all the same to us.
        return {}
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
