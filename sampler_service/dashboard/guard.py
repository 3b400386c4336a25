"""Before every request: who asks, from which page, how often and how much. What is not declared open is closed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampler_service.access import (
    Gate,
    Principal,
    RateLimiter,
    Role,
    Throttled,
    Unauthenticated,
    current_principal,
)
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.dashboard.encoding import dump_json
from sampler_service.dashboard.errors import HTTP_STATUS_OF_CODE, error_body
from sampler_service.dashboard.ids_in_paths import NOT_IN_PATHS, restored, routable_path
from sampler_service.dashboard.settings import HttpSettings

__all__ = ["SESSION_PATH", "Guard", "cookie_name", "needs_all_curricula", "required_role"]

SESSION_PATH = "/api/v1/session"
_OPEN_PATHS = re.compile(r"/|/compare|/c/[^/]*|/c/[^/]*/prompt|/static/.*|/healthz|/readyz|" + SESSION_PATH)
"""The page without its data, the probes, and signing in."""

_ALL_CURRICULA = ("/metrics",)
_OF_ONE = re.compile(r"/api/v1/curricula/([^/]+)(?:/.*)?", re.DOTALL)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def required_role(method: str, path: str) -> Role | None:
    """The role that a request needs; None: it is open, and answers without a token."""
    if _OPEN_PATHS.fullmatch(path):
        return None
    # What may be written here is what needs the role over gRPC too: the strategy.
    return Role.READ if method in _SAFE_METHODS else Role.ADMIN


def needs_all_curricula(path: str) -> bool:
    """Whether a path tells of every curriculum, so that a token of some of them is not enough."""
    return path in _ALL_CURRICULA


def cookie_name(secure: bool) -> str:
    """Over HTTPS a name that no other host and no plain connection can set a cookie under."""
    return "__Host-curriculum_token" if secure else "curriculum_token"


class Guard:
    """Plain ASGI, so that streams pass through unbuffered.

    Args:
        local_only: refuse names other than this machine's in `Host`. Without credentials only the loopback
            guards the service, and a page elsewhere could have its own name point there (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, settings: HttpSettings, local_only: bool) -> None:
        self.app = app
        self._gate = gate
        self._settings = settings
        self._local_only = local_only
        self._rate = RateLimiter(settings.requests_per_second, 4 * settings.requests_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except CurriculumError as refusal:
            await _refusal(refusal)(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        path = scope["path"]
        if self._local_only and not _is_local(headers.get("host", "")):
            raise RefusedRequest(
                "HOST_NOT_ALLOWED",
                "Without tokens this service answers to the names of this machine only: localhost, 127.0.0.1. "
                "Use one of them, or give the service tokens.",
            )
        if NOT_IN_PATHS & set(path):
            # The router would serve a path that the rules below do not know.
            raise UnknownPath(
                "NO_SUCH_ROUTE",
                "No path of this service has a line break or a separator. Ask for odd prompts by ?prompt_id=.",
            )
        path = scope["path"] = routable_path(scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.max_body_bytes:
            raise Throttled("BODY_TOO_LARGE", self._too_large)
        address = scope["client"][0] if scope.get("client") else ""
        role = required_role(scope["method"], path)
        from_cookie = False
        caller = address
        if self._gate.enabled and role is not None:
            authorization, from_cookie = _shown(headers, scope["scheme"] == "https")
            principal = self._gate.authenticate(authorization, (), address)
            _require(principal, role, scope["method"], path)
            current_principal.set(principal)
            caller = principal.name
        if scope["method"] not in _SAFE_METHODS and (from_cookie or not headers.get("authorization")):
            _require_own_page(headers)
        if role is not None or path == SESSION_PATH:
            wait = self._rate.wait_seconds(caller)
            if wait > 0:
                raise Throttled(
                    "TOO_MANY_REQUESTS",
                    "This caller exceeds http.requests_per_second. Ask less often, or follow /stream.",
                    retry_after_seconds=wait,
                )

    def _limited(self, receive: Receive) -> Receive:
        """For bodies that come in chunks and do not say how long they are."""
        taken = 0

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._settings.max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return take

    @property
    def _too_large(self) -> str:
        return f"The body may have at most {self._settings.max_body_bytes} bytes. Send less."


class RefusedRequest(CurriculumError, PermissionError):
    """A refusal that only HTTP knows."""

    code = 7


class UnknownPath(CurriculumError, LookupError):
    """What nothing is served at."""

    code = 5


def _shown(headers: Mapping[str, str], secure: bool) -> tuple[str, bool]:
    """The authorization, and whether the browser sent it by itself."""
    if headers.get("authorization"):
        return headers["authorization"], False
    cookie: SimpleCookie = SimpleCookie()
    try:
        cookie.load(headers.get("cookie", ""))
    except CookieError:
        return "", False
    morsel = cookie.get(cookie_name(secure))
    return (f"Bearer {morsel.value}", True) if morsel is not None and morsel.value else ("", False)


def _require(principal: Principal, role: Role, method: str, path: str) -> None:
    one = _OF_ONE.fullmatch(path)
    principal.require(Role.READ, path, restored(one[1]) if one else "")
    principal.require(role, f"{method} {path}")
    if needs_all_curricula(path):
        principal.require_all_curricula(path)


def _require_own_page(headers: Mapping[str, str]) -> None:
    """Cross-site request forgery: a cookie counts for writes only when our own page asks."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    foreign = site not in (None, "same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != headers.get("host", "")
    )
    if foreign or headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RefusedRequest(
            "CROSS_SITE",
            "Writes come from this service's own page as application/json, or with `authorization: Bearer TOKEN`.",
        )


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _refusal(refusal: CurriculumError) -> Response:
    status, name = HTTP_STATUS_OF_CODE[refusal.code]
    if refusal.reason == "BODY_TOO_LARGE":
        status = 413
    headers = {"cache-control": "no-store"}
    if isinstance(refusal, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="curriculum"'
    if refusal.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, round(refusal.retry_after_seconds)))
    body = dump_json(error_body(name, refusal.reason, refusal.message))
    return Response(body, status, headers, "application/json")
