"""What one connection and one message may be."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RpcSettings"]


class RpcSettings(BaseModel):
    """Limits of the gRPC server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_message_bytes: int = Field(default=64 * 2**20, ge=4096, lt=2**31)
    """Largest message, either way. A larger one is RESOURCE_EXHAUSTED; AddPrompts takes chunks."""
    max_connection_age_seconds: float = Field(default=1800.0, gt=0)
    """Connections are asked to reconnect after this time, so that clients spread over new replicas."""
    connection_grace_seconds: float = Field(default=300.0, ge=0)
    """How long calls of a connection that is too old may still take."""
    min_ping_interval_seconds: float = Field(default=10.0, gt=0, le=20.0)
    """Clients may ping this often. The SDK pings every 20 s."""
    reports_in_flight: int = Field(default=64, ge=1)
    """Reports of one StreamRollouts that are worked on at once; further ones wait."""
    min_watch_seconds: float = Field(default=0.1, gt=0)
    """WatchSummary looks no more often than this."""
    max_concurrent_calls: int = Field(default=4096, ge=1)
    """Calls worked on at once, streams included; further ones are RESOURCE_EXHAUSTED."""
    max_calls_per_second: float = Field(default=0.0, ge=0)
    """Of one token (of one address where there are no tokens), twice that in a burst; 0: no limit."""

    def channel_options(self) -> list[tuple[str, int]]:
        """As gRPC wants them."""
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_connection_age_ms", round(self.max_connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", round(self.connection_grace_seconds * 1000)),
            (
                "grpc.http2.min_recv_ping_interval_without_data_ms",
                round(self.min_ping_interval_seconds * 1000),
            ),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
