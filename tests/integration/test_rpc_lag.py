"""A replica that has fallen behind its log says so to whoever balances load, and recovers."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.config import ServiceConfig
from sampler_service.log import LogClient, RedisSettings
from tests.redis_servers import RedisServer
from tests.rpc_calls import new_id, pool, report, states
from tests.service_process import ServiceProcess, running_service, service_process

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
BACKLOG_EVENTS = 30_000
"""Enough that folding them takes longer than the limit on any machine: each costs more than 20 µs."""


class HealthDiary(threading.Thread):
    """Everything a health watch says, in order, and what /readyz answers right after each NOT_SERVING."""

    def __init__(self, service: ServiceProcess) -> None:
        super().__init__(daemon=True)
        self.said: list[int] = []
        self.readyz: list[tuple[int, str]] = []
        self.changed = threading.Condition()
        self._service = service

    def run(self) -> None:
        try:
            with grpc.insecure_channel(self._service.target) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                for answer in watch:
                    if answer.status == NOT_SERVING:
                        self.readyz.append(readyz(self._service))
                    with self.changed:
                        self.said.append(answer.status)
                        self.changed.notify_all()
        except grpc.RpcError:
            return

    def wait_for(self, *wanted: int, after: int = 0) -> None:
        """Returns when these were said, in this order, behind the first `after` ones."""

        def heard() -> bool:
            said = iter(self.said[after:])
            return all(status in said for status in wanted)

        with self.changed:
            assert self.changed.wait_for(heard, timeout=120), self.said


def readyz(service: ServiceProcess) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{service.http}/readyz", timeout=120) as answer:
            return answer.status, json.loads(answer.read())["detail"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["detail"]


async def write_backlog(settings: RedisSettings, first: int) -> str:
    """Appends many small events as another replica would, policy versions from `first` on; the last revision."""
    async with LogClient(settings) as client:
        log = client.log("math")
        position = await log.last_id()
        for start in range(first, first + BACKLOG_EVENTS, 500):
            events = [
                log_pb2.Event(
                    request_id=f"backlog-{number}",
                    policy_advanced=log_pb2.PolicyAdvanced(policy_version=number),
                ).SerializeToString()
                for number in range(start, start + 500)
            ]
            position = (await log.append(events, position)).own[-1]
    return position


def test_a_lagging_replica_is_not_serving_until_it_has_caught_up(
    tmp_path: Path, valkey: RedisServer, key_prefix: str
) -> None:
    limit = 0.2
    environment = {
        "SAMPLER_REDIS__KEY_PREFIX": key_prefix,
        "SAMPLER_REPLICA__MAX_LAG_SECONDS": str(limit),
        "SAMPLER_REPLICA__SNAPSHOT_EVENTS": "1000000",
    }
    settings = RedisSettings(url=valkey.url, key_prefix=key_prefix)
    arguments = ("--redis-url", valkey.url)
    with service_process(*arguments, log=tmp_path / "log", environment=environment) as service:
        diary = HealthDiary(service)
        diary.start()
        with grpc.insecure_channel(service.target) as channel:
            stub = CurriculumServiceStub(channel)
            stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="math"))
            diary.wait_for(SERVING)
            written = 0
            for _ in range(5):
                before = len(diary.said)
                # The process stands still while another replica writes, as in a long pause of its host.
                service.send_signal(signal.SIGSTOP)
                revision = asyncio.run(write_backlog(settings, written + 1))
                written += BACKLOG_EVENTS
                service.send_signal(signal.SIGCONT)
                # Whoever asks in spite of it is not sent away, and gets the truth.
                asked = pb.GetCurriculumRequest(curriculum_id="math", min_revision=revision)
                assert stub.GetCurriculum(asked, timeout=120).curriculum.policy_version == written
                diary.wait_for(NOT_SERVING, SERVING, after=before)
                if any(status == 503 for status, _ in diary.readyz):
                    break  # Else it had caught up by the time that our question reached it: once more.
            (detail, *_) = [detail for status, detail in diary.readyz if status == 503]
            assert "max_lag_seconds = 0.2" in detail
        # On a busy machine it may lag again for a moment, with nothing to catch up with.
        deadline = time.monotonic() + 120
        while (answer := readyz(service))[0] != 200:
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        text = (tmp_path / "log").read_text()
        assert "lagging" in text
        assert "caught up" in text


async def test_a_replica_that_nobody_calls_follows_its_log(service_config: ServiceConfig) -> None:
    following = service_config.model_copy(
        update={"replica": service_config.replica.model_copy(update={"max_lag_seconds": 0.2})}
    )
    async with running_service(service_config) as one, running_service(following) as two:
        ids = await pool(one.stub)
        await states(two.stub, ids[:1])
        told = await one.stub.ReportRollouts(report(ids[:1], [[1.0]]))
        replica = await two.service.host.replica("math")
        async with asyncio.timeout(120):
            while replica.state.revision != told.revision:
                await asyncio.sleep(0.01)
