"""Every refusal in one JSON shape, {"error": {"code", "reason", "message"}}, under its HTTP status."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sampler_service.dashboard.encoding import dump_json
from sampler_service.dashboard.reader import ReadError
from sampler_service.dashboard.security import SECURITY_HEADERS

INVALID_ARGUMENT, NOT_FOUND, INTERNAL = 3, 5, 13

# google.rpc.Code -> (HTTP status, name), as in google/rpc/code.proto.
HTTP_STATUS_OF_CODE: dict[int, tuple[int, str]] = {
    1: (499, "CANCELLED"),
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}

_KNOWN_STATUSES = {
    405: ("UNIMPLEMENTED", "METHOD_NOT_ALLOWED"),
    413: ("RESOURCE_EXHAUSTED", "BODY_TOO_LARGE"),
}


def error_body(code: str, reason: str, message: str, field: str = "") -> dict[str, object]:
    """The JSON shape of every refusal; `field` is there when one is to blame."""
    error = {"code": code, "reason": reason, "message": message}
    return {"error": error | ({"field": field} if field else {})}


def body_of(error: ReadError) -> dict[str, object]:
    """The JSON shape of a refused read or write."""
    _, name = HTTP_STATUS_OF_CODE.get(error.code, (500, "UNKNOWN"))
    return error_body(name, error.reason, error.message, error.field)


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of the app leave in the one shape."""

    @app.exception_handler(ReadError)
    async def on_read_error(_: Request, error: ReadError) -> Response:
        status, _name = HTTP_STATUS_OF_CODE.get(error.code, (500, "UNKNOWN"))
        headers = {"retry-after": "1"} if status in (429, 503) else {}
        return _respond(status, body_of(error), headers)

    @app.exception_handler(RequestValidationError)
    async def on_bad_parameter(_: Request, error: RequestValidationError) -> Response:
        # A body may hold a secret, so what was in it is not repeated.
        complaints = [
            f"{'.'.join(str(part) for part in item['loc'])}"
            f"{'' if item['loc'][:1] == ('body',) else ' = ' + repr(item.get('input'))}: {item['msg']}"
            for item in error.errors()
        ]
        return _respond(400, error_body("INVALID_ARGUMENT", "INVALID_PARAMETER", "; ".join(complaints)))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            message = (
                f"Nothing is served at {request.url.path}. The API is described at /api/v1/openapi.json."
            )
            return _respond(404, error_body("NOT_FOUND", "NO_SUCH_ROUTE", message))
        code, reason = _KNOWN_STATUSES.get(error.status_code, ("UNKNOWN", "HTTP_ERROR"))
        body = error_body(code, reason, str(error.detail))
        return _respond(error.status_code, body, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def on_bug(_: Request, __: Exception) -> Response:
        # The traceback is the server log's; a page must not show the inside of the service.
        message = "The service failed to answer. Its log has the details."
        # Starlette answers bugs outside every middleware, so the headers are added here.
        return _respond(500, error_body("INTERNAL", "INTERNAL", message), SECURITY_HEADERS)


def _respond(status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    return Response(
        dump_json(body), status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )
