"""Who may do what: tokens, roles, the curricula they are for, and the files of TLS. No gRPC, no HTTP."""

from sampler_service.access.credentials import Credential, TokenFileError
from sampler_service.access.errors import PermissionDenied, Throttled, Unauthenticated
from sampler_service.access.gate import EVERYBODY, Gate, Principal, current_principal
from sampler_service.access.rate import RateLimiter
from sampler_service.access.roles import Role
from sampler_service.access.settings import AuthSettings
from sampler_service.access.tls import TlsSettings

__all__ = [
    "EVERYBODY",
    "AuthSettings",
    "Credential",
    "Gate",
    "PermissionDenied",
    "Principal",
    "RateLimiter",
    "Role",
    "Throttled",
    "TlsSettings",
    "TokenFileError",
    "Unauthenticated",
    "current_principal",
]
