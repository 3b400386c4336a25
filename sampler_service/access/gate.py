"""From what a caller shows to who that is and what they may do."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from sampler_service.access.credentials import Credential, TokenFileError, digest
from sampler_service.access.errors import PermissionDenied, Throttled, Unauthenticated
from sampler_service.access.rate import RateLimiter
from sampler_service.access.roles import Role
from sampler_service.access.settings import AuthSettings

__all__ = ["EVERYBODY", "Gate", "Principal", "current_principal"]

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    name: str
    role: Role
    credential: Credential | None = None
    """None when the service asks nobody for one."""

    @property
    def curricula(self) -> tuple[str, ...]:
        """Ids and prefixes, as in the credential."""
        return self.credential.curricula if self.credential is not None else ("*",)

    def may_see(self, curriculum_id: str) -> bool:
        """Whether the credential is for that curriculum."""
        return self.credential is None or self.credential.covers(curriculum_id)

    def require(self, role: Role, what: str, curriculum_id: str = "") -> None:
        """Nothing, or a refusal that does not tell whether the curriculum exists.

        Raises:
            PermissionDenied: `ROLE_TOO_LOW` or `CURRICULUM_OUT_OF_SCOPE`.
        """
        if not self.role.includes(role):
            raise PermissionDenied(
                "ROLE_TOO_LOW",
                f"{what} needs the role {role}, and {self.name!r} has {self.role}. "
                "Ask whoever runs the service for another token.",
            )
        if curriculum_id and not self.may_see(curriculum_id):
            raise PermissionDenied(
                "CURRICULUM_OUT_OF_SCOPE",
                f"{self.name!r} is for {', '.join(self.curricula)}, and not for {curriculum_id!r}. "
                "Use another token, or another id.",
                "curriculum_id",
            )

    def require_all_curricula(self, what: str) -> None:
        """For what tells of every curriculum at once.

        Raises:
            PermissionDenied: the credential is for some curricula only.
        """
        if "*" not in self.curricula:
            raise PermissionDenied(
                "CURRICULUM_OUT_OF_SCOPE",
                f"{what} is for tokens of all curricula, and {self.name!r} is for "
                f"{', '.join(self.curricula)} only.",
                "curriculum_id",
            )


EVERYBODY = Principal("everybody", Role.ADMIN)
"""Who calls when the service asks for no credentials."""

current_principal: ContextVar[Principal] = ContextVar("current_principal", default=EVERYBODY)
"""Who the call being worked on is from."""


class Gate:
    """Knows the credentials. One that fails to be read again leaves the former ones in force.

    Raises:
        TokenFileError: from the constructor, when the token file cannot be used.
    """

    def __init__(self, settings: AuthSettings, *, now: Callable[[], float] = time.time) -> None:
        self.enabled = settings.enabled
        self._settings = settings
        self._now = now
        self._looked_at = time.monotonic()
        self._stamp = self._file_stamp()
        self._refusals = RateLimiter(settings.refusals_per_minute / 60, settings.refusals_per_minute)
        self._by_digest: dict[str, Credential] = {}
        self._by_certificate: dict[str, Credential] = {}
        self._take(settings.load())

    def authenticate(self, authorization: str, identities: Iterable[str], address: str) -> Principal:
        """Who shows this.

        Args:
            authorization: `Bearer TOKEN`, or empty.
            identities: names in a client certificate that TLS has verified.
            address: where the caller is; counts refusals.

        Raises:
            Unauthenticated: `TOKEN_MISSING`, `TOKEN_MALFORMED`, `TOKEN_UNKNOWN` or `TOKEN_EXPIRED`.
            Throttled: too many of those from the address.
        """
        if not self.enabled:
            return EVERYBODY
        self._look_again()
        try:
            return self._find(authorization, identities)
        except Unauthenticated as refusal:
            wait = self._refusals.wait_seconds(address)
            if wait > 0:
                raise Throttled(
                    "TOO_MANY_REFUSALS",
                    "Too many calls without a credential that is known came from this address. "
                    "Correct the token, then wait.",
                    retry_after_seconds=wait,
                ) from None
            _log.warning("caller refused", reason=refusal.reason, address=address)
            raise

    def may_know(self, authorization: str) -> bool:
        """Whether `authenticate` can succeed with this; without it, whether a certificate can be enough."""
        self._look_again()
        if not authorization:
            return bool(self._by_certificate)
        try:
            self._find(authorization, ())
        except Unauthenticated:
            return False
        return True

    def is_current(self, principal: Principal) -> bool:
        """Whether what the principal showed would still be taken: asked again during long streams."""
        credential = principal.credential
        if credential is None:
            return not self.enabled
        self._look_again()
        known = (
            self._by_digest.get(credential.sha256)
            if credential.sha256 is not None
            else self._by_certificate.get(credential.certificate or "")
        )
        return known == credential and not self._expired(credential)

    def require_current(self, principal: Principal) -> None:
        """The same, as a refusal.

        Raises:
            Unauthenticated: revoked, changed or expired since the call began.
        """
        if not self.is_current(principal):
            raise Unauthenticated(
                "TOKEN_REVOKED",
                "The credential was revoked, changed or has expired. Call again with a new one.",
            )

    def _find(self, authorization: str, identities: Iterable[str]) -> Principal:
        if authorization:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthenticated(
                    "TOKEN_MALFORMED", "The authorization is not of the form `Bearer TOKEN`. Correct it."
                )
            return self._principal(self._of_token(token.strip()))
        for identity in identities:
            if identity in self._by_certificate:
                return self._principal(self._by_certificate[identity])
        raise Unauthenticated(
            "TOKEN_MISSING",
            "This service wants a token: send the metadata or header `authorization: Bearer TOKEN` "
            "(SAMPLER_TOKEN for the SDK and the command line).",
        )

    def _of_token(self, token: str) -> Credential:
        wanted = digest(token)
        found = self._by_digest.get(wanted)
        # The look-up is by hash, so its timing tells nothing of a token; the comparison is constant-time
        # all the same.
        if found is None or found.sha256 is None or not hmac.compare_digest(found.sha256, wanted):
            raise Unauthenticated(
                "TOKEN_UNKNOWN", "The token is not known here: mistyped, revoked, or another service's."
            )
        return found

    def _principal(self, credential: Credential) -> Principal:
        if self._expired(credential):
            raise Unauthenticated(
                "TOKEN_EXPIRED",
                f"The credential {credential.name!r} expired at {credential.expires}. Ask for a new one.",
            )
        return Principal(credential.name, credential.role, credential)

    def _expired(self, credential: Credential) -> bool:
        return credential.expires is not None and credential.expires <= datetime.fromtimestamp(
            self._now(), UTC
        )

    def _take(self, credentials: Iterable[Credential]) -> None:
        self._by_digest, self._by_certificate = {}, {}
        for credential in credentials:
            if credential.sha256 is not None:
                self._by_digest[credential.sha256] = credential
            elif credential.certificate is not None:
                self._by_certificate[credential.certificate] = credential

    def _file_stamp(self) -> tuple[int, int, int] | None:
        file = self._settings.token_file
        if file is None:
            return None
        try:
            status = file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _look_again(self) -> None:
        moment = time.monotonic()
        if self._settings.token_file is None or moment - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = moment
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._settings.load())
        except TokenFileError as error:
            _log.error("the token file cannot be read again; what it said before is in force", why=str(error))
        else:
            _log.info("the token file was read again", credentials=len(self._by_digest))
