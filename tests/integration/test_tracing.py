"""One trace through the SDK, the service and the log; none where nobody asked for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sampler_service import tracing
from tests.service_process import ROOT, RunningService
from trainer_client.client import AsyncCurriculumClient, CurriculumClient
from trainer_client.exceptions import NotFoundError

SERVICE = "curriculum.v1.CurriculumService"


@pytest.fixture(scope="module")
def client_spans() -> InMemorySpanExporter:
    """The trainer's own OpenTelemetry; a process has one for good."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


class Traced:
    """Spans of the service; reading them ends its tracing."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.stop = tracing.configure(self.exporter)

    async def spans(self, name: str) -> Sequence[ReadableSpan]:
        """Those of one RPC, once there are any: a span ends after its answer is on its way."""
        async with asyncio.timeout(30):
            while not any(span.name == name for span in self.exporter.get_finished_spans()):
                await asyncio.sleep(0.01)
        self.stop()
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traced() -> Iterator[Traced]:
    service_side = Traced()
    yield service_side
    service_side.stop()


async def test_a_step_of_the_trainer_is_one_trace_down_to_the_log(
    client_spans: InMemorySpanExporter, traced: Traced, service: RunningService
):
    async with AsyncCurriculumClient(service.target) as client:
        with trace.get_tracer("trainer").start_as_current_span("step") as step:
            await client.create_curriculum("math")
    wanted = step.get_span_context().trace_id
    (sent,) = [s for s in client_spans.get_finished_spans() if s.name == f"{SERVICE}/CreateCurriculum"]
    (served,) = await traced.spans(f"{SERVICE}/CreateCurriculum")
    assert sent.context is not None
    assert served.parent is not None
    assert served.context is not None
    assert (sent.context.trace_id, served.context.trace_id) == (wanted, wanted)
    assert served.parent.span_id == sent.context.span_id
    assert served.attributes is not None
    assert served.attributes["curriculum.id"] == "math"
    assert served.attributes["rpc.grpc.status_code"] == 0
    below = [
        span for span in traced.exporter.get_finished_spans()
        if span.name == "log" and span.context is not None and span.context.trace_id == wanted
    ]  # fmt: skip
    assert below
    assert all(span.attributes is not None and span.attributes["db.system"] == "redis" for span in below)


async def test_a_refusal_is_in_the_trace_with_its_code_and_no_token(traced: Traced, service: RunningService):
    def ask() -> None:
        with CurriculumClient(service.target, token="a-secret-token") as client, pytest.raises(NotFoundError):
            client.get_curriculum("nobody")

    await asyncio.to_thread(ask)
    (served,) = await traced.spans(f"{SERVICE}/GetCurriculum")
    assert served.attributes is not None
    assert served.attributes["rpc.grpc.status_code"] == 5
    assert served.status.is_ok or served.status.is_unset
    assert "a-secret-token" not in str([span.to_json() for span in traced.exporter.get_finished_spans()])


async def test_streams_are_traced_until_they_end(traced: Traced, service: RunningService):
    async with AsyncCurriculumClient(service.target) as client:
        await client.create_curriculum("math")
        await client.add_prompts("math", ["a", "b"])
        async for _summary in client.watch_summary("math"):
            break
    assert len(await traced.spans(f"{SERVICE}/AddPrompts")) == 1
    assert len(await traced.spans(f"{SERVICE}/WatchSummary")) == 1


def test_traces_are_wanted_when_the_environment_says_where_they_go():
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
    assert tracing.wanted(endpoint)
    assert not tracing.wanted({})
    assert not tracing.wanted({**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not tracing.wanted({**endpoint, "OTEL_TRACES_EXPORTER": "none"})


def test_without_the_extra_it_is_said_how_to_get_it():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from sampler_service import tracing\n"
        "try: tracing.configure()\n"
        "except tracing.MissingExtraError as error: print(error)\n"
        "import trainer_client.client\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "pip install 'curriculum-sampler[otel]'" in said.stdout


def test_a_trainer_that_has_not_set_tracing_up_does_not_pay_for_its_import():
    code = (
        "import sys\n"
        "from trainer_client.client import CurriculumClient\n"
        "from trainer_client.exceptions import CurriculumError\n"
        "with CurriculumClient('127.0.0.1:1', timeout_seconds=0.1) as client:\n"
        "    try: client.summary('math')\n"
        "    except CurriculumError: print('called')\n"
        "print('opentelemetry' in sys.modules)\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["called", "False"]
