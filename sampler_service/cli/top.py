"""`top`: all curricula, or one, as they change."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import grpc
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.cli.calls import (
    DEFAULT_TARGET,
    JsonOption,
    TargetOption,
    TimeoutOption,
    console,
    is_away,
    sentence,
    service,
)
from sampler_service.cli.completion import complete_curriculum
from sampler_service.cli.top_view import Sample, details, overview, plain

__all__ = ["look", "top"]

_BINS = 10
_PAGE = 1000


def top(
    curriculum: Annotated[
        str,
        typer.Argument(
            help="Id of one curriculum; without it all are shown.", autocompletion=complete_curriculum
        ),
    ] = "",
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show the present state and end.")] = False,
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Watch curricula: rates, mixed groups, leases; of one also difficulty and calibration. Ctrl-C ends it.

    With --json a line per look. Rates are of the time between two looks. A service that goes away meanwhile
    is asked again until it is back.
    """
    with service(target) as stub, _interrupted() as stop:
        samples = look(stub, curriculum, interval, timeout, stop, "" if once or as_json else target)
        if once or as_json:
            for sample, before in samples:
                if as_json:
                    typer.echo(json.dumps(plain(sample, before), ensure_ascii=False))
                else:
                    console.print(_view(sample, before, curriculum))
                if once:
                    return
            return
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            for sample, before in samples:
                live.update(_view(sample, before, curriculum), refresh=True)


def _view(sample: Sample, before: Sample | None, curriculum: str) -> RenderableType:
    view = details(sample, before) if curriculum else overview(sample, before)
    if not sample.problem:
        return view
    said = f"{sample.problem}. What was known at {sample.time:%H:%M:%S} UTC:"
    return Group(Text(said, "red", no_wrap=False, overflow="fold"), Text(), view)


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Set by Ctrl-C. An exception instead could fall into gRPC's own code, which swallows it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def look(
    stub: CurriculumServiceStub,
    curriculum: str,
    interval_seconds: float,
    timeout_seconds: float,
    stop: threading.Event,
    patient_with: str,
) -> Iterator[tuple[Sample, Sample | None]]:
    """Each look with the one before it, until `stop` is set.

    Args:
        patient_with: the target, if the last look is to be shown again while it is away; else that is an error.
    """
    before: Sample | None = None
    last: tuple[Sample, Sample | None] | None = None
    while not stop.is_set():
        try:
            summaries = (
                [_summary(stub, curriculum, timeout_seconds)] if curriculum else _all(stub, timeout_seconds)
            )
        except grpc.RpcError as error:
            if last is None or not patient_with or not is_away(error):
                raise
            yield replace(last[0], problem=sentence(error, patient_with)), last[1]
        else:
            sample = Sample(time.monotonic(), summaries)
            last = sample, before
            yield last
            before = sample
        stop.wait(interval_seconds)


def _summary(stub: CurriculumServiceStub, name: str, timeout_seconds: float) -> pb.Summary:
    request = pb.GetSummaryRequest(curriculum_id=name, bins=_BINS)
    return stub.GetSummary(request, timeout=timeout_seconds).summary


def _all(stub: CurriculumServiceStub, timeout_seconds: float) -> list[pb.Summary]:
    """What the list says of each: it is kept beside the logs, so looking loads no curriculum."""
    summaries: list[pb.Summary] = []
    request = pb.ListCurriculaRequest(page_size=_PAGE, summaries=True)
    while True:
        page = stub.ListCurricula(request, timeout=timeout_seconds)
        summaries += page.summaries
        if not page.next_page_token:
            return summaries
        request.page_token = page.next_page_token
