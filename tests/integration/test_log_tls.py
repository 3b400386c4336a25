"""TLS to a real Redis: who is trusted, who is let in, and what is said when it does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.log import START, LogClient, LogUnavailableError, RedisSettings
from tests.ports import free_port
from tests.redis_servers import RedisServer, redis_binary
from tests.rpc_calls import new_id
from tests.service_process import run_command, service_process

# The packaged Valkey is built without TLS; the system's Redis has it.
pytestmark = pytest.mark.redis_server


@dataclass
class Files:
    """The authority's certificate, and certificates with their keys by name."""

    directory: Path

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def write(self, name: str, authority: trustme.CA, identity: str) -> None:
        leaf = authority.issue_cert(identity)
        leaf.cert_chain_pems[0].write_to_path(self.directory / f"{name}.pem")
        leaf.private_key_pem.write_to_path(self.directory / f"{name}.key")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("tls"))
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(made.directory / "ca.pem")
    stranger.cert_pem.write_to_path(made.directory / "stranger-ca.pem")
    made.write("server", authority, "127.0.0.1")
    made.write("elsewhere", authority, "redis.example.org")
    made.write("client", authority, "sampler.example.org")
    made.write("stranger", stranger, "sampler.example.org")
    return made


@contextlib.contextmanager
def tls_server(
    files: Files, certificate: str = "server", *, asks_for_certificates: bool = False, **options: str
) -> Iterator[tuple[RedisServer, int]]:
    """A Redis with a TLS port, and a unix socket for looking behind the scenes."""
    port = free_port()
    given = {
        "tls-port": str(port),
        "tls-cert-file": files.path(f"{certificate}.pem"),
        "tls-key-file": files.path(f"{certificate}.key"),
        "tls-ca-cert-file": files.path("ca.pem"),
        "tls-auth-clients": "yes" if asks_for_certificates else "no",
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    with tempfile.TemporaryDirectory(prefix="log-") as directory:
        server = RedisServer(redis_binary(), Path(directory), options=given)
        try:
            yield server.start(), port
        finally:
            server.stop()


def settings(port: int, files: Files, **changes: object) -> RedisSettings:
    values: dict[str, object] = {"url": f"rediss://127.0.0.1:{port}/0", "ca_file": files.path("ca.pem")}
    return RedisSettings.model_validate(values | changes)


async def write_and_read(given: RedisSettings) -> None:
    async with LogClient(given) as client:
        assert await client.check_server() == []
        log = client.log("math")
        start = await log.create(b"created")
        await log.append([b"event"] * 3, after=start)
        assert len(await log.read(START)) == 4
        await log.delete()


async def complaint(given: RedisSettings) -> str:
    async with LogClient(given) as client:
        with pytest.raises(LogUnavailableError) as refused:
            await client.ping()
    return str(refused.value)


async def test_a_log_over_tls_is_a_log(files: Files) -> None:
    with tls_server(files) as (_, port):
        await write_and_read(settings(port, files))


async def test_a_server_by_an_authority_we_do_not_trust_is_refused(files: Files) -> None:
    with tls_server(files) as (_, port):
        for authority in (files.path("stranger-ca.pem"), None):
            said = await complaint(settings(port, files, ca_file=authority))
            assert "CERTIFICATE_VERIFY_FAILED" in said
            assert f"127.0.0.1:{port}" in said


async def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(files: Files) -> None:
    with tls_server(files, "elsewhere") as (_, port):
        assert "127.0.0.1" in await complaint(settings(port, files))
        await write_and_read(settings(port, files, verify_hostname=False))
        # The name is waived, the authority is not.
        stranger = files.path("stranger-ca.pem")
        said = await complaint(settings(port, files, ca_file=stranger, verify_hostname=False))
        assert "CERTIFICATE_VERIFY_FAILED" in said


async def test_a_server_that_asks_for_our_certificate_gets_it(files: Files) -> None:
    with tls_server(files, asks_for_certificates=True) as (_, port):
        own = {"cert_file": files.path("client.pem"), "key_file": files.path("client.key")}
        await write_and_read(settings(port, files, **own))
        await complaint(settings(port, files))
        theirs = {"cert_file": files.path("stranger.pem"), "key_file": files.path("stranger.key")}
        await complaint(settings(port, files, **theirs))


async def test_tls_and_plain_text_do_not_mix(files: Files) -> None:
    with tls_server(files) as (_, port):
        await complaint(RedisSettings(url=f"redis://127.0.0.1:{port}/0", timeout_seconds=1.0))


@pytest.mark.parametrize("scheme", ["rediss+cluster", "rediss+sentinel"])
async def test_clusters_and_sentinels_are_reached_over_tls_too(scheme: str, files: Files) -> None:
    options = {
        "cluster_enabled": "yes",
        "tls_cluster": "yes",
        "cluster_announce_ip": "127.0.0.1",
        "cluster_port": str(free_port()),
    }
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(
            tls_server(files, **(options if scheme == "rediss+cluster" else {}))
        )
        if scheme == "rediss+cluster":
            with server.connection() as raw:
                raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                deadline = time.monotonic() + 120
                while b"cluster_state:ok" not in raw.execute_command("CLUSTER", "INFO"):
                    assert time.monotonic() < deadline, "the cluster does not form"
                    await asyncio.sleep(0.02)
            url = f"{scheme}://127.0.0.1:{port}"
        else:
            sentinel_port = stack.enter_context(tls_sentinel(files, port))
            url = f"{scheme}://127.0.0.1:{sentinel_port}/main"
        await write_and_read(settings(port, files, url=url))


@contextlib.contextmanager
def tls_sentinel(files: Files, primary_port: int) -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sentinel-") as directory:
        configuration = Path(directory) / "sentinel.conf"
        configuration.write_text(
            f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"tls-cert-file {files.path('server.pem')}\ntls-key-file {files.path('server.key')}\n"
            f"tls-ca-cert-file {files.path('ca.pem')}\ntls-auth-clients no\ntls-replication yes\n"
            f"unixsocket {directory}/s.sock\n"
            f"sentinel monitor main 127.0.0.1 {primary_port} 1\n"
        )
        server = RedisServer(
            redis_binary(), Path(directory), arguments=[str(configuration), "--sentinel"], plain=True
        )
        try:
            server.start()
            yield port
        finally:
            server.stop()


def test_the_service_runs_over_tls_as_a_user_with_few_rights(files: Files, tmp_path: Path) -> None:
    with tls_server(files, asks_for_certificates=True) as (server, port):
        with server.connection() as raw:
            raw.execute_command(
                *("ACL", "SETUSER", "sampler", "on", ">hush", "~curriculum:*"),
                *("+@all", "-@dangerous", "-@admin", "+info"),
            )
            raw.execute_command("ACL", "SETUSER", "default", "off")
        environment = {
            "SAMPLER_REDIS__CA_FILE": files.path("ca.pem"),
            "SAMPLER_REDIS__CERT_FILE": files.path("client.pem"),
            "SAMPLER_REDIS__KEY_FILE": files.path("client.key"),
            "SAMPLER_REDIS__PASSWORD": "hush",
        }
        arguments = ("--redis-url", f"rediss://sampler@127.0.0.1:{port}/0")
        with service_process(*arguments, log=tmp_path / "log", environment=environment) as process:
            with grpc.insecure_channel(process.target) as channel:
                stub = CurriculumServiceStub(channel)
                stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="math"))
                chunk = pb.AddPromptsRequest(curriculum_id="math", request_id=new_id(), prompt_ids=["a", "b"])
                assert stub.AddPrompts(iter([chunk])).total == 2
                batch = pb.NextBatchRequest(curriculum_id="math", request_id=new_id(), batch_size=2)
                assert len(stub.NextBatch(batch).batch.prompt_ids) == 2
            assert "the server forbids CONFIG" in (tmp_path / "log").read_text()
            assert process.stop() == 0
        assert "hush" not in (tmp_path / "log").read_text()


def test_a_service_that_does_not_trust_its_server_says_so_in_one_line(files: Files) -> None:
    with tls_server(files) as (_, port):
        url = f"rediss://127.0.0.1:{port}/0"
        ended = run_command("serve", "--redis-url", url, "--grpc-port", "0", "--no-dashboard")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "CERTIFICATE_VERIFY_FAILED" in line
