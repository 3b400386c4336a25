"""TLS of the gRPC port, with certificates that may be renewed while it serves."""

from __future__ import annotations

import ssl
import threading
import time

import grpc
import structlog

from sampler_service.access import TlsSettings
from sampler_service.access.tls import Pem

__all__ = ["server_credentials"]

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0


def server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """Credentials that follow the files.

    Raises:
        OSError: a file cannot be read or is not what it should be.
    """
    files = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.first),
        files.fetch,  # type: ignore[arg-type]  # None, too: unchanged.
        require_client_authentication=tls.client_ca_file is not None,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pem.private_key, pem.certificate)], pem.client_authorities
    )


class _Files:
    """Reads the files anew when they change. gRPC asks at every handshake, from threads of its own."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._stamp = tls.stamp()
        self._looked_at = time.monotonic()
        self.first = tls.read()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            if time.monotonic() - self._looked_at < _LOOK_SECONDS:
                return None
            self._looked_at = time.monotonic()
            try:
                stamp = self._tls.stamp()
                if stamp == self._stamp:
                    return None
                pem = self._tls.read()
            except (OSError, ssl.SSLError) as error:
                # Half replaced, perhaps: the former certificate serves until both files fit.
                _log.error("the renewed certificate cannot be used yet", why=str(error))
                return None
            self._stamp = stamp
            _log.info("the certificate was renewed")
            return _configuration(pem)
