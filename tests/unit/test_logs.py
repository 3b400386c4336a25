"""What a line of the log may hold, whoever chose the text in it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

import pytest

from sampler_service.logs import log_formatter

FORMS: tuple[Literal["console", "json"], ...] = ("console", "json")
ODD = "a\x1b[2J\r\n2026-01-01 [info] all is well\x85\u2028b"


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("service", logging.ERROR, "file", 1, message, None, None)
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_no_id_that_a_caller_chose_begins_a_line_or_moves_the_cursor(form: Literal["console", "json"]):
    formatter = log_formatter(form)
    for text in (
        formatter.format(record("call", curriculum_id=ODD, request_id=ODD)),
        formatter.format(record(f"reading {ODD} failed")),
    ):
        assert text.isprintable(), text
        assert "all is well" in text


def test_a_console_line_shows_ordinary_text_as_it_is():
    text = log_formatter("console").format(record("call", method="NextBatch", curriculum_id="math 1"))
    assert "method=NextBatch" in text
    assert "curriculum_id='math 1'" in text


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_says_where_it_failed_and_not_what_was_in_the_frames(form: Literal["console", "json"]):
    def answer(authorization: str, scope: dict[str, object]) -> None:
        password = authorization.removeprefix("Bearer ")
        raise ValueError(f"{len(password)} of {len(scope)}")

    # In two parts, because a traceback quotes lines of source.
    token = "-".join(("cs", "of", "somebody"))
    try:
        answer(f"Bearer {token}", {"headers": [(b"authorization", token.encode())]})
    except ValueError:
        text = log_formatter(form).format(record("Exception in ASGI application", exc_info=sys.exc_info()))
    assert "ValueError" in text
    assert "answer" in text
    assert token not in text
    if form == "json":
        assert json.loads(text)["exception"][0]["exc_type"] == "ValueError"
