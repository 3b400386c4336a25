"""`sampler-service serve` as a process: what it prints, how it fails to start, how it stops."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from tests.ports import free_port
from tests.redis_servers import RedisServer, lives
from tests.rpc_calls import new_id
from tests.service_process import ServiceProcess, run_command, service_process
from tests.worker_processes import wait_for_log


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One embedded service for the tests that only look."""
    directory = tmp_path_factory.mktemp("service")
    with service_process("--data-dir", str(directory / "data"), log=directory / "log") as process:
        yield process


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def get(running: ServiceProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://{running.http}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def test_the_first_line_says_where_it_listens_and_both_ports_answer(running: ServiceProcess) -> None:
    with grpc.insecure_channel(running.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "curriculum.v1.CurriculumService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert json.loads(get(running, "/readyz"))["ready"] is True
    assert "<html" in get(running, "/")


def test_reflection_lists_the_api(running: ServiceProcess) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([ask]), timeout=60)
    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        "curriculum.v1.CurriculumService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_the_dashboard_and_the_metrics_show_what_was_done_over_grpc(running: ServiceProcess) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = CurriculumServiceStub(channel)
        stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="seen"))
        chunk = pb.AddPromptsRequest(curriculum_id="seen", request_id=new_id(), prompt_ids=["a", "b"])
        stub.AddPrompts(iter([chunk]))
        stub.ReportRollouts(
            pb.ReportRolloutsRequest(
                curriculum_id="seen",
                request_id=new_id(),
                prompt_ids=["a"],
                rollout_counts=[4],
                rewards=[1, 0, 1, 0],
                statuses=[1, 3, 2, 1],
            )
        )
        with pytest.raises(grpc.RpcError):
            stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id="unseen"))
    assert json.loads(get(running, "/api/v1/curricula/seen/summary"))["rollouts_spent"] == 3
    # A refused call is counted once its refusal is on its way.
    deadline = time.monotonic() + 60
    while 'grpc_code="NOT_FOUND"' not in (metrics := get(running, "/metrics")):
        assert time.monotonic() < deadline, metrics
        time.sleep(0.05)
    service = 'grpc_service="curriculum.v1.CurriculumService",grpc_type="unary"'
    for line in (
        'curriculum_prompts{curriculum="seen"} 2.0',
        'curriculum_rollouts_total{curriculum="seen",status="ok"} 2.0',
        'curriculum_rollouts_total{curriculum="seen",status="truncated"} 1.0',
        'curriculum_rollouts_total{curriculum="seen",status="error"} 1.0',
        'curriculum_groups_total{curriculum="seen",outcome="mixed"} 1.0',
        f'grpc_server_started_total{{grpc_method="GetCurriculum",{service}}} 1.0',
        f'grpc_server_handled_total{{grpc_code="NOT_FOUND",grpc_method="GetCurriculum",{service}}} 1.0',
        f'grpc_server_handling_seconds_count{{grpc_method="ReportRollouts",{service}}} 1.0',
    ):
        assert line in metrics


def test_a_refusal_looks_the_same_on_the_dashboard(running: ServiceProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(running, "/api/v1/curricula/nobody/summary")
    assert caught.value.code == 404
    assert json.loads(caught.value.read())["error"]["reason"] == "CURRICULUM_NOT_FOUND"


def test_a_second_service_on_the_data_directory_is_refused(running: ServiceProcess, tmp_path: Path) -> None:
    directory = running.process.args[running.process.args.index("--data-dir") + 1]  # type: ignore[union-attr, index]
    ended = run_command("serve", "--grpc-port", "0", "--http-port", "0", "--data-dir", str(directory))
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "in use by another service" in line
    assert str(running.process.pid) in line


@pytest.mark.parametrize(
    ("option", "other"), [("--grpc-port", "--http-port"), ("--http-port", "--grpc-port")]
)
def test_a_port_that_is_taken_is_named(option: str, other: str, taken_port: int, tmp_path: Path) -> None:
    ended = run_command("serve", "--data-dir", str(tmp_path), option, str(taken_port), other, "0")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"127.0.0.1:{taken_port}" in line
    assert "another process" in line
    assert option in line
    # It left nothing behind: the same directory serves the next one.
    with service_process("--data-dir", str(tmp_path), log=tmp_path / "log") as process:
        assert process.target


def test_an_absent_redis_is_one_clear_line() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    ended = run_command("serve", "--redis-url", url, "--grpc-port", "0")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "cannot be reached" in line
    assert "secret" not in line


def test_a_server_that_refuses_our_password_is_one_clear_line(redis_7: RedisServer) -> None:
    url = redis_7.url + "?" if "?" in redis_7.url else redis_7.url
    ended = run_command(
        "serve",
        "--redis-url",
        url,
        "--grpc-port",
        "0",
        environment={"SAMPLER_REDIS__USERNAME": "nobody", "SAMPLER_REDIS__PASSWORD": "hush"},
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "error:" in line
    assert "hush" not in line


def test_without_a_dashboard_there_is_no_http(tmp_path: Path) -> None:
    arguments = ("--grpc-port", "0", "--no-dashboard", "--data-dir", str(tmp_path / "data"))
    with service_process(*arguments, log=tmp_path / "log") as process:
        assert "http=" not in process.ready_line
        assert run_command("healthcheck", "--timeout", "60", "--target", process.target).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_with_nothing_left_running(number: signal.Signals, tmp_path: Path) -> None:
    process = ServiceProcess("--data-dir", str(tmp_path / "data"), log=tmp_path / "log").wait_until_ready()
    embedded = int(run_info(tmp_path / "data"))
    process.send_signal(number)
    assert process.finish() == 0
    assert not lives(embedded)
    assert "Traceback" not in (tmp_path / "log").read_text()


def run_info(data_dir: Path) -> str:
    """Process id of the embedded server."""
    import redis

    with redis.Redis(unix_socket_path=str(data_dir / "server.sock")) as client:
        return str(client.info("server")["process_id"])


def test_streams_and_health_watches_do_not_hold_the_end_up(tmp_path: Path) -> None:
    process = ServiceProcess(
        "--data-dir", str(tmp_path / "data"), "--drain-seconds", "200", log=tmp_path / "log"
    ).wait_until_ready()
    with grpc.insecure_channel(process.target) as channel:
        stub = CurriculumServiceStub(channel)
        stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="a"))
        watch = stub.WatchSummary(pb.WatchSummaryRequest(curriculum_id="a"))
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            for _ in watch:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert process.finish() == 0
    assert time.monotonic() - began < 100, "it has waited for streams that never end by themselves"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = ServiceProcess(
        "--data-dir", str(tmp_path / "data"), "--drain-seconds", "600", log=tmp_path / "log"
    ).wait_until_ready()
    with grpc.insecure_channel(process.target) as channel:
        stub = CurriculumServiceStub(channel)
        stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="a"))

        def never_ending() -> Iterator[pb.AddPromptsRequest]:
            yield pb.AddPromptsRequest(curriculum_id="a", request_id=new_id(), prompt_ids=["a"])
            while process.process.poll() is None:
                time.sleep(0.05)

        adding = stub.AddPrompts.future(never_ending())
        deadline = time.monotonic() + 60
        while 'grpc_server_started_total{grpc_method="AddPrompts"' not in get(process, "/metrics"):
            assert time.monotonic() < deadline, "the call does not arrive"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        wait_for_log(process, "draining")
        time.sleep(0.2)  # Time to end wrongly.
        assert process.process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.finish() == 128 + signal.SIGTERM
        assert adding.exception(timeout=60) is not None
