"""How the service logs: structlog and the standard library in one format, on stderr.

Callers choose ids, and what fails has their secrets in its frames: so text is escaped, and tracebacks have no locals.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer

__all__ = ["configure_logging", "log_formatter"]

_SHARED: tuple[structlog.types.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


def configure_logging(level: str, form: Literal["console", "json"]) -> None:
    """Lines for people or JSON objects, of both structlog and `logging`, to stderr."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(log_formatter(form, colors=sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What each connection and request of the libraries does is of use to their authors only.
    for name in ("asyncio", "redis"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # Its warnings are of requests that are none: strangers could write as many lines as they like.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def log_formatter(form: Literal["console", "json"], *, colors: bool = False) -> logging.Formatter:
    """One record as text: a line, or more where it has a traceback."""
    renderers: list[structlog.types.Processor]
    if form == "json":
        without_locals = ExceptionDictTransformer(show_locals=False)
        renderers = [
            structlog.processors.ExceptionRenderer(without_locals),
            structlog.processors.JSONRenderer(),
        ]
    else:
        plain = structlog.dev.plain_traceback
        renderers = [_escape, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


class _Quoted:
    """Text that the renderer shows quoted and escaped."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _escape(_logger: object, _method: str, record: structlog.types.EventDict) -> structlog.types.EventDict:
    """No caller writes a line of its own into the log, or moves the cursor of who reads it."""
    for key, value in record.items():
        if isinstance(value, str) and not value.isprintable() and key != "stack":
            # The event is shown as it is, values by their `repr`.
            record[key] = repr(value)[1:-1] if key == "event" else _Quoted(value)
    return record
