"""`serve --workers N`: one address, equal processes, restarted when they crash, drained together."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from tests.redis_servers import RedisServer, lives
from tests.rpc_calls import new_id, report
from tests.service_process import ServiceProcess, run_command, service_process
from tests.worker_processes import calls_by_worker, wait_for_log, worker_pids
from trainer_client.client import CurriculumClient

PROMPTS = [f"p{i}" for i in range(40)]
# Each channel gets a connection of its own; by default those of one process share one.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@contextlib.contextmanager
def workers(
    tmp_path: Path, *arguments: str, count: int = 2, environment: dict[str, str] | None = None
) -> Iterator[ServiceProcess]:
    given = ("--workers", str(count), *arguments)
    if "--redis-url" not in arguments:
        given = (*given, "--data-dir", str(tmp_path / "data"))
    with service_process(*given, log=tmp_path / "log", environment=environment) as process:
        yield process


@contextlib.contextmanager
def stub_of(target: str) -> Iterator[CurriculumServiceStub]:
    with grpc.insecure_channel(target, options=OWN_CONNECTION) as channel:
        yield CurriculumServiceStub(channel)


def make_pool(target: str) -> None:
    with stub_of(target) as stub:
        stub.CreateCurriculum(
            pb.CreateCurriculumRequest(
                request_id=new_id(), curriculum_id="math", strategy=pb.Strategy(preset="uniform-grpo")
            )
        )
        chunk = pb.AddPromptsRequest(curriculum_id="math", request_id=new_id(), prompt_ids=PROMPTS)
        stub.AddPrompts(iter([chunk]))


class Trainer(threading.Thread):
    """Reports again and again until told to end; what gets no answer is sent again, as the SDK does."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.acknowledged = 0
        self.repeats = 0
        self.ending = threading.Event()
        self._target = target

    def run(self) -> None:
        with stub_of(self._target) as stub:
            while not self.ending.is_set():
                request = report([PROMPTS[self.acknowledged % len(PROMPTS)]], [[1.0, 0.0]])
                while True:
                    try:
                        stub.ReportRollouts(request, timeout=60, wait_for_ready=True)
                        break
                    except grpc.RpcError:
                        self.repeats += 1
                self.acknowledged += 1


def wait_for_reports(trainers: list[Trainer], more: int) -> None:
    """Returns when so many more were acknowledged than are now."""
    goal = sum(trainer.acknowledged for trainer in trainers) + more
    deadline = time.monotonic() + 120
    while sum(trainer.acknowledged for trainer in trainers) < goal:
        assert time.monotonic() < deadline, "the trainers do not get on"
        time.sleep(0.005)


def rollouts_counted(target: str) -> int:
    with stub_of(target) as stub:
        answer = stub.ListPromptStates(pb.ListPromptStatesRequest(curriculum_id="math", page_size=1000))
    return sum(answer.rollouts)


def test_connections_spread_over_the_workers_and_each_stays_with_its_own(tmp_path: Path) -> None:
    with workers(tmp_path) as service:
        assert "workers=2" in service.ready_line
        assert "," not in service.target
        make_pool(service.target)
        asked = pb.GetCurriculumRequest(curriculum_id="math")
        with stub_of(service.target) as stub:
            for _ in range(30):
                assert stub.GetCurriculum(asked, timeout=60).curriculum.prompt_count == 40
        assert list(calls_by_worker(service, "GetCurriculum").values()) == [30]
        # The kernel chooses at random: all forty on one worker is one in 10^12.
        for _ in range(40):
            with stub_of(service.target) as stub:
                stub.GetCurriculum(asked, timeout=60)
        calls = calls_by_worker(service, "GetCurriculum")
        assert set(calls) == {"0", "1"}
        assert min(calls.values()) > 0
        assert sum(calls.values()) == 70


def test_separate_ports_spread_the_calls_of_one_client(tmp_path: Path) -> None:
    with workers(tmp_path, "--worker-ports", "separate") as service:
        addresses = service.target.split(",")
        assert len(set(addresses)) == 2
        make_pool(addresses[0])
        with CurriculumClient(f"ipv4:{service.target}") as client:
            client.health()  # Connects to the first; the second follows.
            deadline = time.monotonic() + 120
            while set(calls_by_worker(service, "GetCurriculum")) != {"0", "1"}:
                assert time.monotonic() < deadline, "only one worker was called"
                assert client.get_curriculum("math").prompt_count == 40
            before = calls_by_worker(service, "GetCurriculum")
            for _ in range(20):
                client.get_curriculum("math")
            after = calls_by_worker(service, "GetCurriculum")
        assert {worker: after[worker] - before[worker] for worker in after} == {"0": 10, "1": 10}


def test_a_killed_worker_comes_back_and_no_acknowledged_report_is_lost(tmp_path: Path) -> None:
    with workers(tmp_path) as service:
        make_pool(service.target)
        trainers = [Trainer(service.target) for _ in range(6)]
        for trainer in trainers:
            trainer.start()
        try:
            starts = 2
            wait_for_reports(trainers, 60)
            for count in (1, 2, 2, 2, 2, 2):  # One of them; then both at once.
                if count == 2 and starts > 3 and sum(t.repeats for t in trainers) > 0:
                    break  # Seldom no call is under way when a worker goes: then once more.
                before = worker_pids(service)
                assert len(before) == 2
                for pid in before[:count]:
                    os.kill(pid, signal.SIGKILL)
                starts += count
                wait_for_log(service, "worker serves", times=starts)
                assert not set(before[:count]) & set(worker_pids(service))
                wait_for_reports(trainers, 60)
        finally:
            for trainer in trainers:
                trainer.ending.set()
            for trainer in trainers:
                trainer.join(120)
        acknowledged = sum(t.acknowledged for t in trainers)
        assert sum(t.repeats for t in trainers) > 0, "nobody noticed the kills"
        assert rollouts_counted(service.target) == 2 * acknowledged
        assert len(worker_pids(service)) == 2


def test_a_worker_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    """SIGSTOP: the process is there, its connections too, and nothing moves."""
    environment = {"SAMPLER_WORKER_SILENCE_SECONDS": "10"}
    with workers(tmp_path, environment=environment) as service:
        make_pool(service.target)
        stopped = worker_pids(service)[0]
        os.kill(stopped, signal.SIGSTOP)
        wait_for_log(service, "worker hangs, killing it", timeout_seconds=120)
        wait_for_log(service, "worker serves", times=3, timeout_seconds=120)
        assert not lives(stopped)
        assert re.search(rf"worker hangs, killing it .*\bpid={stopped}\b", service.log.read_text())
        # Whichever of them gets the connection.
        for _ in range(10):
            with stub_of(service.target) as stub:
                listed = stub.ListCurricula(pb.ListCurriculaRequest(), timeout=60, wait_for_ready=True)
                assert len(listed.curricula) == 1


def test_sigterm_lets_running_calls_finish_on_every_worker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(workers(tmp_path, "--drain-seconds", "600"))
        make_pool(service.target)
        before = calls_by_worker(service, "AddPrompts")
        pids = worker_pids(service)
        go_on = threading.Event()

        def chunks(request_id: str) -> Iterator[pb.AddPromptsRequest]:
            yield pb.AddPromptsRequest(curriculum_id="math", request_id=request_id, prompt_ids=["first"])
            assert go_on.wait(300)
            yield pb.AddPromptsRequest(prompt_ids=["last"])

        adding = []
        running = {"0": 0.0, "1": 0.0}
        deadline = time.monotonic() + 120
        # The kernel chooses a worker for each at random: until both have some.
        while min(running.values()) == 0 or sum(running.values()) < len(adding):
            assert time.monotonic() < deadline, f"calls by worker: {running}"
            if sum(running.values()) == len(adding):
                for _ in range(4):
                    stub = stack.enter_context(stub_of(service.target))
                    adding.append(stub.AddPrompts.future(chunks(new_id()), wait_for_ready=True))
            calls = calls_by_worker(service, "AddPrompts")
            running = {worker: calls.get(worker, 0.0) - before.get(worker, 0.0) for worker in running}
        service.send_signal(signal.SIGTERM)
        wait_for_log(service, "draining", times=3)
        go_on.set()
        for call in adding:
            assert call.result(timeout=120).total == 42
        assert service.finish() == 0
        assert not any(map(lives, pids))
        assert "Traceback" not in service.log.read_text()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    service = ServiceProcess(
        "--workers", "2", "--data-dir", str(tmp_path / "data"), log=tmp_path / "log"
    ).wait_until_ready()
    orphans = worker_pids(service)
    assert len(orphans) == 2
    service.kill()
    deadline = time.monotonic() + 120
    while any(map(lives, orphans)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    # The next one finds the data directory and the ports free.
    with service_process("--data-dir", str(tmp_path / "data"), log=tmp_path / "log") as again:
        assert again.target


def test_workers_share_a_server_of_ours(tmp_path: Path, valkey: RedisServer, key_prefix: str) -> None:
    environment = {"SAMPLER_REDIS__KEY_PREFIX": key_prefix, "SAMPLER_WORKERS": "2"}
    arguments = ("--redis-url", valkey.url)
    with service_process(*arguments, log=tmp_path / "log", environment=environment) as service:
        make_pool(service.target)
        for _ in range(10):
            with stub_of(service.target) as stub:
                stub.ReportRollouts(report(["p0"], [[1.0]]), timeout=60)
        assert rollouts_counted(service.target) == 10


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ended = run_command(
            *("serve", "--workers", "2", "--data-dir", str(tmp_path)),
            *("--grpc-port", str(port), "--http-port", "0"),
        )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "--grpc-port" in line


def test_a_second_signal_ends_all_of_them_at_once(tmp_path: Path) -> None:
    service = ServiceProcess(
        *("--workers", "2", "--data-dir", str(tmp_path / "data"), "--drain-seconds", "600"),
        log=tmp_path / "log",
    ).wait_until_ready()
    make_pool(service.target)
    pids = worker_pids(service)
    never = threading.Event()

    def hanging() -> Iterator[pb.AddPromptsRequest]:
        yield pb.AddPromptsRequest(curriculum_id="math", request_id=new_id(), prompt_ids=["x"])
        never.wait(300)

    with stub_of(service.target) as stub:
        call = stub.AddPrompts.future(hanging())
        deadline = time.monotonic() + 120
        while sum(calls_by_worker(service, "AddPrompts").values()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        service.send_signal(signal.SIGTERM)
        wait_for_log(service, "draining", times=3)
        assert service.process.poll() is None
        service.send_signal(signal.SIGTERM)
        assert service.finish() == 128 + signal.SIGTERM
        never.set()
        assert call.exception(timeout=60) is not None
    deadline = time.monotonic() + 120
    while any(map(lives, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
