"""Signing a browser in: the token goes into a cookie that no script can read."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sampler_service.access import EVERYBODY, Gate, Principal, Unauthenticated
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.dashboard.encoding import dump_json
from sampler_service.dashboard.guard import SESSION_PATH, cookie_name
from sampler_service.dashboard.openapi import answers
from sampler_service.dashboard.reader import ReadError
from sampler_service.dashboard.settings import HttpSettings

__all__ = ["create_session_router"]


class _SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # Never shown again: a refusal of this body does not repeat it.
    token: str = Field(min_length=1, max_length=1024, pattern=r"^[!-~]+$", repr=False)


def create_session_router(gate: Gate, settings: HttpSettings) -> APIRouter:
    """Who is signed in, signing in, signing out."""
    router = APIRouter(default_response_class=Response)

    @router.get(SESSION_PATH, responses=answers(None))
    async def get_session(request: Request) -> Response:
        """Whether credentials are wanted, and whose the browser has shown."""
        principal: Principal | None = EVERYBODY
        if gate.enabled:
            token = request.cookies.get(cookie_name(request.url.scheme == "https"), "")
            shown = request.headers.get("authorization") or (f"Bearer {token}" if token else "")
            try:
                principal = gate.authenticate(shown, (), _address(request)) if shown else None
            except Unauthenticated:
                principal = None
            except CurriculumError as refusal:
                raise _as_read_error(refusal) from None
        return _session(gate, principal)

    @router.post(SESSION_PATH, responses=answers(None))
    async def sign_in(request: Request, given: _SignIn) -> Response:
        """Takes a token and keeps it in a cookie: HttpOnly, SameSite=Strict, Secure over HTTPS."""
        try:
            principal = gate.authenticate(f"Bearer {given.token}", (), _address(request))
        except CurriculumError as refusal:
            raise _as_read_error(refusal) from None
        response = _session(gate, principal)
        if gate.enabled:
            secure = request.url.scheme == "https"
            response.set_cookie(
                cookie_name(secure),
                given.token,
                max_age=_seconds_left(principal, settings.session_hours * 3600),
                httponly=True,
                samesite="strict",
                secure=secure,
            )
        return response

    @router.delete(SESSION_PATH, responses=answers(None))
    async def sign_out(request: Request) -> Response:
        """Forgets the cookie. The token itself stays valid; `sampler-service tokens revoke` ends it."""
        response = _session(gate, None if gate.enabled else EVERYBODY)
        secure = request.url.scheme == "https"
        response.delete_cookie(cookie_name(secure), httponly=True, samesite="strict", secure=secure)
        return response

    return router


def _as_read_error(refusal: CurriculumError) -> ReadError:
    return ReadError(refusal.code, refusal.reason, refusal.message)


def _session(gate: Gate, principal: Principal | None) -> Response:
    body = {
        "authentication": gate.enabled,
        "signed_in": principal is not None,
        "name": principal.name if principal else "",
        "role": str(principal.role) if principal else "",
        "curricula": list(principal.curricula) if principal else [],
    }
    return Response(dump_json(body), headers={"cache-control": "no-store"}, media_type="application/json")


def _seconds_left(principal: Principal, at_most: float) -> int:
    expires = principal.credential.expires if principal.credential else None
    return round(at_most if expires is None else max(1.0, min(at_most, expires.timestamp() - time.time())))


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
