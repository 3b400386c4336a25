"""Limits of the HTTP side."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HttpSettings"]


class HttpSettings(BaseModel):
    """The dashboard's port."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trusted_proxies: tuple[str, ...] = ("127.0.0.1",)
    """Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; `*`: all."""
    requests_per_second: float = Field(default=50.0, gt=0)
    """API requests of one token (of one address without tokens), four times that in a burst."""
    max_body_bytes: int = Field(default=65_536, ge=1024)
    """Largest request body."""
    session_hours: float = Field(default=12.0, gt=0)
    """How long a browser stays signed in; the token's own end comes first."""
