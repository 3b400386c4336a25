"""The files of TLS, read again when they change, so that certificates can be renewed in place."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Pem", "TlsSettings"]


class Pem(NamedTuple):
    """Contents of the files."""

    certificate: bytes
    private_key: bytes
    client_authorities: bytes | None


class TlsSettings(BaseModel):
    """TLS of both ports; off without a certificate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert_file: Path | None = None
    """PEM file of the certificate and its chain. Renewed files are noticed within seconds."""
    key_file: Path | None = None
    """PEM file of its private key."""
    client_ca_file: Path | None = None
    """PEM file of authorities: gRPC then takes only clients with a certificate of theirs (mutual TLS)."""

    @model_validator(mode="after")
    def _together(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; give both or neither")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError(
                "client_ca_file needs cert_file and key_file: without TLS there is no mutual TLS"
            )
        return self

    @property
    def enabled(self) -> bool:
        """Whether connections are encrypted."""
        return self.cert_file is not None

    def read(self) -> Pem:
        """The files as they are now.

        Raises:
            OSError: one cannot be read.
            ssl.SSLError: they are not a certificate and its key.
        """
        assert self.cert_file is not None
        assert self.key_file is not None
        # Says what is wrong with them, which gRPC does not.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert_file, self.key_file)
        authorities = self.client_ca_file.read_bytes() if self.client_ca_file else None
        return Pem(self.cert_file.read_bytes(), self.key_file.read_bytes(), authorities)

    def stamp(self) -> tuple[int, ...]:
        """Differs when a file was replaced."""
        files = (self.cert_file, self.key_file, self.client_ca_file)
        return tuple(file.stat().st_mtime_ns for file in files if file is not None)
