"""Credentials as they are kept: a token by its hash, a client certificate by its name."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sampler_service.access.roles import Role

__all__ = [
    "Credential",
    "NewToken",
    "TokenFileError",
    "digest",
    "new_token",
    "read_token_file",
    "write_token_file",
]

_HEADER = """\
# Who may use the service; `sampler-service tokens` writes it. Tokens are kept as SHA-256 of 256 random
# bits, so nobody can use the service by reading this file; whoever can write it can.
"""
_PREFIX = "cs"


class TokenFileError(ValueError):
    """The token file cannot be used; says which and why."""


def _with_zone(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment


_Moment = Annotated[datetime | None, AfterValidator(_with_zone)]


class Credential(BaseModel):
    """A token or a client certificate, and what it is good for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    """Who this is, in logs and messages."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the whole token, in hexadecimal."""
    certificate: str | None = Field(default=None, min_length=1)
    """Or: a name (SAN, or the common name where there is none) in a client certificate that TLS verified."""
    role: Role
    """`read`, `train` or `admin`."""
    curricula: tuple[str, ...] = Field(default=("*",), min_length=1)
    """Ids, or what they begin with followed by `*`."""
    created: _Moment = None
    """When it was made."""
    expires: _Moment = None
    """From when on it is refused."""

    @model_validator(mode="after")
    def _one_proof(self) -> Credential:
        if (self.sha256 is None) == (self.certificate is None):
            raise ValueError(f"credential {self.name!r} needs either sha256 or certificate")
        for pattern in self.curricula:
            if not pattern or "*" in pattern[:-1]:
                raise ValueError(
                    f"credential {self.name!r}: curricula holds {pattern!r}; an id, or the beginning of one "
                    "with a * at the end"
                )
        return self

    def covers(self, curriculum_id: str) -> bool:
        """Whether it is for that curriculum."""
        return any(
            curriculum_id.startswith(pattern[:-1]) if pattern.endswith("*") else curriculum_id == pattern
            for pattern in self.curricula
        )


class NewToken(NamedTuple):
    """A token that was just made: the only moment at which it is known."""

    token: str
    sha256: str


def new_token() -> NewToken:
    """256 random bits, with a prefix that secret scanners can look for."""
    token = f"{_PREFIX}_{secrets.token_urlsafe(32)}"
    return NewToken(token, digest(token))


def digest(token: str) -> str:
    """SHA-256 in hexadecimal. Slow hashes are for passwords; these tokens cannot be guessed."""
    return hashlib.sha256(token.encode()).hexdigest()


class _TokenFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: tuple[Credential, ...] = ()


def read_token_file(path: Path) -> tuple[Credential, ...]:
    """The credentials in the file.

    Raises:
        TokenFileError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenFileError(
            f"the token file {path} cannot be read: {error.strerror}. Make one with "
            f"`sampler-service tokens create NAME --role admin --token-file {path}`"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # Its message would quote the file.
        raise TokenFileError(f"the token file {path} is not YAML") from None
    try:
        tokens = _TokenFile.model_validate(values or {}).tokens
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TokenFileError(f"the token file {path}: {where}: {first['msg']}") from None
    names = [one.name for one in tokens]
    if len(set(names)) < len(names):
        raise TokenFileError(f"the token file {path} has two credentials of one name; rename one")
    return tokens


def write_token_file(path: Path, credentials: Sequence[Credential]) -> None:
    """Replaces the file in one step; only its owner may read it.

    Raises:
        OSError: the folder is not there or cannot be written.
    """
    plain = [one.model_dump(mode="json", exclude_none=True) for one in credentials]
    text = _HEADER + yaml.safe_dump({"tokens": plain}, sort_keys=False, allow_unicode=True)
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
