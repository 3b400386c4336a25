"""What happens to reports while the service is away, refuses them, or this process dies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.client_patience import why_not
from tests.integration.client_fake_service import (
    RunningFake,
    refused,
    stopping,
    unauthenticated,
    unavailable,
)
from tests.service_process import ROOT
from trainer_client.client import CurriculumClient, Report, ReportResult
from trainer_client.exceptions import (
    ClientClosedError,
    InvalidArgumentError,
    NotFoundError,
    OutboxFileError,
    OutboxFullError,
    UnauthenticatedError,
    UnavailableError,
)


@pytest.fixture
def fake():
    running = RunningFake()
    yield running
    running.stop()


@pytest.fixture
def client(fake):
    with CurriculumClient(fake.target, timeout_seconds=60) as client:
        yield client


def report(client: CurriculumClient, number: int, timeout_seconds: float = 60) -> ReportResult:
    return client.report(
        None,
        [f"p{number}"],
        rewards=[[1.0, 0.0]],
        curriculum_id="c",
        policy_version=0,
        request_id=f"id-{number}",
        timeout_seconds=timeout_seconds,
    )


def queue_report(client: CurriculumClient, number: int) -> None:
    client.report(
        None,
        [f"p{number}"],
        rewards=[[1.0, 0.0]],
        curriculum_id="c",
        policy_version=0,
        request_id=f"id-{number}",
        wait=False,
    )


def ids(count: int) -> list[str]:
    return [f"id-{number}" for number in range(count)]


def test_a_report_that_waited_in_vain_stays_and_is_sent_when_the_service_is_back(fake, client):
    fake.stop()
    queue_report(client, 0)
    # Once the sender has tried in vain, a deadline that passes is told with the reason.
    assert isinstance(why_not(lambda seconds: client.flush(timeout_seconds=seconds)), UnavailableError)
    with pytest.raises(UnavailableError, match="stay in the outbox"):
        report(client, 1, timeout_seconds=0.5)
    assert client.pending_reports == 2
    fake.start()
    assert client.flush(timeout_seconds=60) == ()
    assert client.pending_reports == 0
    assert fake.service.counted == ids(2)


def test_queued_reports_arrive_in_order_by_themselves(fake, client):
    fake.stop()
    for number in range(20):
        queue_report(client, number)
    assert client.pending_reports == 20
    fake.start()
    end = time.monotonic() + 60
    while client.pending_reports:
        assert time.monotonic() < end, "they do not arrive"
        time.sleep(0.02)
    assert fake.service.counted == ids(20)


def test_what_a_stopping_service_cancels_is_asked_again(fake, client):
    for rpc in ("NextBatch", "ReportRollouts", "StreamRollouts", "WatchSummary"):
        fake.service.failures[rpc] = deque([stopping])
    batch = client.next_batch("c", batch_size=2)
    assert client.report(batch, rewards=[[1.0], [0.0]], request_id="id-0").accepted == 2
    (streamed,) = client.stream_reports([Report(batch, rewards=[[1.0], [0.0]], request_id="id-1")])
    assert streamed.accepted == 2
    assert next(client.watch_summary("c")) is not None
    assert fake.service.counted == ids(2)
    assert not any(fake.service.failures.values())


def test_a_report_that_is_cancelled_again_and_again_is_not_acknowledged_yet(fake, client):
    fake.service.always["ReportRollouts"] = stopping
    error = why_not(lambda seconds: report(client, 0, seconds))
    assert isinstance(error, UnavailableError)
    assert client.pending_reports == 1
    fake.service.always.clear()
    client.flush()
    assert fake.service.counted == ids(1)


def test_a_report_that_waits_goes_behind_those_that_wait_already(fake, client):
    fake.service.failures["ReportRollouts"] = deque([unavailable] * 6)
    queue_report(client, 0)
    queue_report(client, 1)
    assert report(client, 2).accepted == 2
    assert fake.service.counted == ids(3)


def test_a_checkpoint_includes_the_reports_before_it(fake, client):
    fake.service.failures["ReportRollouts"] = deque([unavailable] * 6)
    queue_report(client, 0)
    queue_report(client, 1)
    assert client.create_checkpoint("c", "step-1").revision == "after 2 reports"


def test_a_refused_report_raises_where_somebody_waits_and_is_told_by_flush_where_nobody_does(
    fake, client, caplog
):
    fake.service.failures["ReportRollouts"] = deque([refused, refused])
    with pytest.raises(NotFoundError):
        report(client, 0)
    with caplog.at_level(logging.ERROR, "trainer_client.client"):
        queue_report(client, 1)
        queue_report(client, 2)
        told = client.flush()
    assert [(entry.request_id, entry.curriculum_id, entry.error.reason) for entry in told] == [
        ("id-1", "c", "CURRICULUM_NOT_FOUND")
    ]
    assert "id-1 was refused" in caplog.text
    assert client.flush() == ()
    assert fake.service.counted == ["id-2"]


def test_a_wrong_token_is_said_at_once_and_the_report_is_kept(fake, client):
    fake.service.always["ReportRollouts"] = unauthenticated
    with pytest.raises(UnauthenticatedError) as told:
        report(client, 0)
    assert "was not acknowledged within" not in str(told.value), "it was told only when time had run out"
    assert client.pending_reports == 1
    fake.service.always.clear()
    client.flush()
    assert fake.service.counted == ids(1)


def test_a_full_outbox_refuses_the_next_report_and_keeps_the_others(fake):
    fake.stop()
    with CurriculumClient(fake.target, outbox_max_bytes=60) as client:
        queue_report(client, 0)
        queue_report(client, 1)
        with pytest.raises(OutboxFullError, match="outbox_max_bytes=60"):
            queue_report(client, 2)
        assert client.pending_reports == 2
        fake.start()
        client.flush(timeout_seconds=60)
    assert fake.service.counted == ids(2)


def test_a_report_above_the_message_limit_is_refused_before_it_blocks_the_outbox(fake):
    with CurriculumClient(fake.target, max_message_bytes=1000) as client:
        with pytest.raises(InvalidArgumentError, match="max_message_bytes=1000"):
            client.report(None, ["p"], rewards=[[1.0] * 1000], curriculum_id="c", policy_version=0)
        assert client.pending_reports == 0


def test_closing_without_a_file_says_what_is_lost(fake, caplog):
    fake.stop()
    client = CurriculumClient(fake.target)
    queue_report(client, 0)
    with caplog.at_level(logging.WARNING, "trainer_client.client"):
        client.close(flush_seconds=0.3)
    assert "1 reports were not sent and are lost" in caplog.text
    with pytest.raises(ClientClosedError):
        report(client, 1)


def test_reports_on_disk_are_sent_by_the_next_client(fake, tmp_path):
    path = tmp_path / "run" / "outbox"
    fake.stop()
    client = CurriculumClient(fake.target, outbox_path=path)
    for number in range(3):
        queue_report(client, number)
    client.close(flush_seconds=0.2)
    fake.start()
    with CurriculumClient(fake.target, outbox_path=path) as successor:
        successor.flush(timeout_seconds=60)
    assert fake.service.counted == ids(3)
    with CurriculumClient(fake.target, outbox_path=path) as third:
        assert third.pending_reports == 0


def test_reports_of_a_killed_process_are_sent_by_the_next_one(fake, tmp_path):
    path = tmp_path / "outbox"
    script = f"""
import os, signal
from trainer_client.client import CurriculumClient
client = CurriculumClient("127.0.0.1:1", outbox_path={str(path)!r})
for number in range(5):
    client.report(None, ["p"], rewards=[[1.0]], curriculum_id="c", policy_version=0,
                  request_id=f"id-{{number}}", wait=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=180)
    assert killed.returncode == -9
    with CurriculumClient(fake.target, outbox_path=path) as client:
        client.flush(timeout_seconds=60)
    assert fake.service.counted == ids(5)


def test_two_clients_may_not_share_an_outbox_file(fake, tmp_path):
    path = tmp_path / "outbox"
    with (
        CurriculumClient(fake.target, outbox_path=path),
        pytest.raises(OutboxFileError, match="in use") as caught,
    ):
        CurriculumClient(fake.target, outbox_path=path)
    assert isinstance(caught.value, OSError)


def test_threads_share_a_client_and_every_report_is_counted_once(fake, client):
    fake.service.failures["ReportRollouts"] = deque([unavailable] * 3)
    fake.service.lost_replies["ReportRollouts"] = 5

    def one(number: int) -> str:
        if number % 3 == 0:
            queue_report(client, number)
            return f"id-{number}"
        if number % 3 == 1:
            client.next_batch("c", batch_size=2)
        return report(client, number, timeout_seconds=120).request_id

    with ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(one, range(120)))
    client.flush()
    assert answered == ids(120)
    assert sorted(fake.service.counted) == sorted(ids(120))


def test_closing_ends_those_who_wait_and_leaves_no_thread(fake):
    others = set(threading.enumerate())
    fake.service.always["ReportRollouts"] = unavailable
    client = CurriculumClient(fake.target)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(report, client, 0, 60)
        while client.pending_reports == 0:
            time.sleep(0.01)
        client.close(flush_seconds=0)
        with pytest.raises(ClientClosedError):
            waiting.result(60)
    started = set(threading.enumerate()) - others
    assert not any(thread.name == "curriculum-outbox" for thread in started)


def test_a_forked_child_is_told_to_make_a_client_of_its_own():
    script = """
import os
from trainer_client.client import CurriculumClient
from trainer_client.exceptions import ClientClosedError
client = CurriculumClient("127.0.0.1:1")
child = os.fork()
if child == 0:
    try:
        client.get_curriculum("c")
    except ClientClosedError as error:
        os._exit(0 if "fork" in str(error) else 2)
    os._exit(1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])}
    outcome = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=180)
    assert outcome.returncode == 0
