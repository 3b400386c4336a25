"""Calls to a running service, and how their failures are said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from rich.console import Console
from rich.text import Text

from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.cli.connection import open_channel

__all__ = [
    "JsonOption",
    "TargetOption",
    "TimeoutOption",
    "console",
    "is_away",
    "print_json",
    "sentence",
    "service",
]

TargetOption = Annotated[
    str, typer.Option(envvar="SAMPLER_TARGET", help="gRPC address of the service.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.")]
DEFAULT_TARGET = "127.0.0.1:50051"
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class _Terminal(Console):
    """Shows text as it is: ids are chosen by callers, so nothing in them is markup or moves the cursor."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, with what cannot be printed escaped."""
        return super().render_str("".join(map(_printable, text)), **options)


def _printable(character: str) -> str:
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


console = _Terminal(highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def service(target: str) -> Iterator[CurriculumServiceStub]:
    """The API at `target`; a failed call ends the command with one line and status 1."""
    with open_channel(target) as channel:
        try:
            yield CurriculumServiceStub(channel)
        except grpc.RpcError as error:
            typer.echo(f"error: {sentence(error, target)}", err=True)
            raise typer.Exit(1) from None


def print_json(message: Message) -> None:
    """The message by its proto field names, absent fields included."""
    text = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    typer.echo(json.dumps(text, ensure_ascii=False, indent=2))


_WANTS_TLS = (
    "what listens there closes the connection; a service with TLS wants --tls, "
    "one with mutual TLS also --cert-file and --key-file"
)
_SIGNS_OF_TLS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is of no authority that is trusted here; --ca-file names one",
    "Hostname Verification": "its certificate is for another name; --server-name says which",
    "WRONG_VERSION_NUMBER": "what listens there does not speak TLS; --no-tls does without",
    "Socket closed": _WANTS_TLS,
    "Connection reset": _WANTS_TLS,
}


def _why_not(details: str) -> str:
    hints = (hint for sign, hint in _SIGNS_OF_TLS.items() if sign in details)
    return next(hints, "is it running? --target chooses another")


def is_away(error: grpc.RpcError) -> bool:
    """Whether the service, or its log, cannot be reached at the moment."""
    return isinstance(error, grpc.Call) and error.code() in _AWAY


def sentence(error: grpc.RpcError, target: str) -> str:
    """A failed call in one line."""
    if not isinstance(error, grpc.Call):
        return str(error)
    reason, field = _reason_and_field(error)
    if not reason and is_away(error):
        return f"no service answers at {target} ({error.code().name}): {_why_not(error.details() or '')}"
    words = [error.code().name if not reason else f"{error.code().name} {reason}"]
    if field:
        words.append(f"in {field}")
    return f"{' '.join(words)}: {error.details()}"


def _reason_and_field(error: grpc.Call) -> tuple[str, str]:
    reason = field = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                details = status_pb2.Status.FromString(value).details
            except DecodeError:
                continue
            for detail in details:
                info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                if detail.Unpack(info):
                    reason = info.reason
                elif detail.Unpack(bad) and bad.field_violations:
                    field = bad.field_violations[0].field
    return reason, field
