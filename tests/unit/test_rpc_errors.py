"""Every exception that may reach the API becomes a status with a reason, and never UNKNOWN."""

from __future__ import annotations

import inspect

import pytest
from google.rpc import code_pb2, error_details_pb2

import sampler_service.log as log_package
from sampler_service.curriculum import errors as core
from sampler_service.log import (
    LogAccessError,
    LogError,
    LogExistsError,
    LogFullError,
    LogGapError,
    LogLostError,
    LogMissingError,
    LogReplacedError,
    LogUnavailableError,
    SnapshotCorruptError,
    SnapshotFormatError,
    SnapshotMissingError,
)
from sampler_service.rpc.errors import DOMAIN, describe


@pytest.mark.parametrize(
    ("error", "code", "reason", "retries"),
    [
        (LogUnavailableError("x", 0.5), "UNAVAILABLE", "LOG_UNAVAILABLE", 0.5),
        (LogMissingError("x"), "NOT_FOUND", "CURRICULUM_NOT_FOUND", None),
        (LogReplacedError("x"), "NOT_FOUND", "CURRICULUM_NOT_FOUND", None),
        (LogExistsError("x"), "ALREADY_EXISTS", "CURRICULUM_EXISTS", None),
        (LogFullError("x"), "RESOURCE_EXHAUSTED", "LOG_FULL", None),
        (LogGapError("x", "1-0", "2-0"), "UNAVAILABLE", "LOG_RELOADING", 1.0),
        (LogLostError("x"), "UNAVAILABLE", "LOG_RELOADING", 1.0),
        (LogAccessError("x"), "UNAVAILABLE", "LOG_ACCESS_REFUSED", 10.0),
        (SnapshotFormatError("x"), "FAILED_PRECONDITION", "SNAPSHOT_FORMAT", None),
        (SnapshotMissingError("x"), "NOT_FOUND", "SNAPSHOT_MISSING", None),
        (SnapshotCorruptError("x"), "DATA_LOSS", "SNAPSHOT_CORRUPT", None),
        (core.InvalidArgument("BAD", "x", "a.b"), "INVALID_ARGUMENT", "BAD", None),
        (core.Exhausted("ALL_OUT", "x", retry_after_seconds=3.0), "RESOURCE_EXHAUSTED", "ALL_OUT", 3.0),
    ],
)
def test_an_exception_has_its_code_reason_and_delay(
    error: Exception, code: str, reason: str, retries: float | None
) -> None:
    refusal = describe(error)
    assert (code_pb2.Code.Name(refusal.code), refusal.reason) == (code, reason)
    assert refusal.retry_after_seconds == retries


def test_no_error_of_the_core_or_the_log_comes_out_as_unknown() -> None:
    made_otherwise = (
        LogUnavailableError,
        LogGapError,
        log_package.DataDirLockedError,
    )  # Above; start-up only.
    kinds = [
        kind for module in (core, log_package) for kind in vars(module).values() if inspect.isclass(kind)
    ]
    for kind in kinds:
        if issubclass(kind, core.CurriculumError):
            refusal = describe(kind("REASON", "message"))
        elif issubclass(kind, LogError) and kind not in made_otherwise:
            refusal = describe(kind("message"))
        else:
            continue
        assert refusal.code != code_pb2.UNKNOWN, kind
        assert refusal.reason.isupper(), kind


def test_a_status_carries_all_that_a_client_may_match() -> None:
    error = core.InvalidArgument("OUT_OF_RANGE", "it is too large", "batch_size", retry_after_seconds=1.5)
    status = describe(error).to_status()
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for packed, message in zip(status.details, (info, bad, retry), strict=True):
        assert packed.Unpack(message)
    assert (info.reason, info.domain) == ("OUT_OF_RANGE", DOMAIN)
    assert (bad.field_violations[0].field, bad.field_violations[0].description) == (
        "batch_size",
        "it is too large",
    )
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.5


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 50_000, "a\nb\x00c" * 1000, "\ud800" * 2000])
def test_a_status_fits_into_headers_whatever_was_quoted(text: str) -> None:
    status = describe(core.NotFound("R", text, "field")).to_status().SerializeToString()
    # Base64 in one header, percent-encoded in another, of 8 KiB together.
    assert len(status) * 4 / 3 + 3 * 1000 < 8000
