"""Which credentials the service knows."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from sampler_service.access.credentials import Credential, digest, read_token_file
from sampler_service.access.roles import Role

__all__ = ["AuthSettings"]

_SHORTEST_TOKEN = 20


class AuthSettings(BaseModel):
    """Without any of these the service is open to whoever reaches its ports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_file: Path | None = None
    """Tokens by their hashes, as `sampler-service tokens` writes them; read again when it changes."""
    tokens: tuple[Credential, ...] = ()
    """The same, in the settings themselves."""
    admin_token: SecretStr | None = None
    """A token with the role admin, in plain text: for secrets that come as environment variables."""
    train_token: SecretStr | None = None
    """The same with the role train."""
    read_token: SecretStr | None = None
    """The same with the role read."""
    refusals_per_minute: float = Field(default=60.0, gt=0)
    """Wrong credentials of one address beyond this are RESOURCE_EXHAUSTED, and no longer logged."""

    @field_validator("admin_token", "train_token", "read_token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        # An empty variable is how compose files and charts say "none".
        if token is None or not token.get_secret_value():
            return None
        text = token.get_secret_value()
        if len(text) < _SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(
                f"a token needs at least {_SHORTEST_TOKEN} printable ASCII characters without spaces; "
                "make one with `openssl rand -hex 32`"
            )
        return token

    @property
    def enabled(self) -> bool:
        """Whether callers must show who they are."""
        return bool(self.token_file or self.tokens or self._plain())

    def load(self) -> tuple[Credential, ...]:
        """All credentials, the file's as it is now.

        Raises:
            TokenFileError: the file cannot be used.
        """
        made = tuple(
            Credential(name=f"{role} token", sha256=digest(token.get_secret_value()), role=role)
            for role, token in self._plain()
        )
        return (*made, *self.tokens, *(read_token_file(self.token_file) if self.token_file else ()))

    def _plain(self) -> list[tuple[Role, SecretStr]]:
        given = ((Role.ADMIN, self.admin_token), (Role.TRAIN, self.train_token), (Role.READ, self.read_token))
        return [(role, token) for role, token in given if token is not None]
