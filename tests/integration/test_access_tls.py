"""TLS and mutual TLS of both ports, as the SDK, the command line and a browser meet them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from sampler_service.access import AuthSettings, Credential, Role, TlsSettings
from sampler_service.access.credentials import digest, write_token_file
from sampler_service.cli import app
from sampler_service.config import ServiceConfig
from sampler_service.rpc import credentials as credentials_module
from tests.access_tokens import TOKENS, auth_settings
from tests.client_patience import why_not, why_not_async
from tests.service_process import ServiceProcess, running_service, service_process
from trainer_client.client import AsyncCurriculumClient, CurriculumClient, Tls
from trainer_client.exceptions import PermissionDeniedError, UnauthenticatedError, UnavailableError

NAME = "sampler.example.org"
ADMIN = TOKENS[Role.ADMIN]


@dataclass
class Files:
    """One authority, the service's certificate by it, and a trainer's."""

    directory: Path
    authority: trustme.CA

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def write(self, name: str, *identities: str, by: trustme.CA | None = None) -> tuple[Path, Path]:
        leaf = (by or self.authority).issue_cert(*identities)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        # As a renewal should: in one step each.
        for path, blobs in ((key, [leaf.private_key_pem]), (certificate, leaf.cert_chain_pems)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.replace(path)
        return certificate, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("tls"), trustme.CA())
    made.authority.cert_pem.write_to_path(made.ca)
    made.write("server", NAME, "127.0.0.1")
    made.write("trainer", "trainer-1.example.org")
    made.write("stranger", "trainer-1.example.org", by=trustme.CA())
    return made


def tls(files: Files, client: str | None = None) -> Tls:
    own = (files.directory / f"{client}.pem", files.directory / f"{client}.key") if client else (None, None)
    return Tls(files.ca, *own)


@pytest.fixture(scope="module")
def encrypted(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """TLS on both ports, tokens by the environment, on every address of this machine."""
    directory = tmp_path_factory.mktemp("service")
    arguments = ["--data-dir", str(directory / "data"), "--grpc-host", "0.0.0.0", "--http-host", "0.0.0.0"]
    arguments += ["--tls-cert", str(files.directory / "server.pem")]
    arguments += ["--tls-key", str(files.directory / "server.key"), "--log-level", "debug"]
    secrets = {"SAMPLER_AUTH__ADMIN_TOKEN": ADMIN, "SAMPLER_AUTH__READ_TOKEN": TOKENS[Role.READ]}
    with service_process(*arguments, log=directory / "log", environment=secrets) as process:
        yield process
        with (
            CurriculumClient(local(process.target), token="of-nobody", tls=tls(files)) as stranger,
            pytest.raises(UnauthenticatedError),
        ):
            stranger.get_curriculum("math")
        log = (directory / "log").read_text()
        assert "caller refused" in log
        assert not [token for token in (*TOKENS.values(), "of-nobody") if token in log], (
            "a token is in the log"
        )


def local(address: str) -> str:
    return address.replace("0.0.0.0", "127.0.0.1")


@pytest.fixture
def target(encrypted: ServiceProcess) -> str:
    return local(encrypted.target)


def test_the_sdk_talks_to_it_with_a_token_and_the_authority(target: str, files: Files):
    with CurriculumClient(target, token=ADMIN, tls=tls(files)) as client:
        client.create_curriculum("math", exist_ok=True)
        assert client.get_curriculum("math").curriculum_id == "math"
    with CurriculumClient(target, token=TOKENS[Role.READ], tls=tls(files)) as reader:
        assert reader.get_curriculum("math").curriculum_id == "math"
        with pytest.raises(PermissionDeniedError) as refused:
            reader.add_prompts("math", ["a"])
        assert refused.value.reason == "ROLE_TOO_LOW"
    with (
        CurriculumClient(target, token="wrong", tls=tls(files)) as stranger,
        pytest.raises(UnauthenticatedError),
    ):
        stranger.get_curriculum("math")


async def test_the_asyncio_sdk_takes_token_and_authority_from_the_environment(
    target: str, files: Files, monkeypatch: pytest.MonkeyPatch
):
    secret = files.directory / "token"
    secret.write_text(f"{ADMIN}\n")
    monkeypatch.setenv("SAMPLER_TOKEN_FILE", str(secret))
    monkeypatch.setenv("SAMPLER_CLIENT_CA_FILE", str(files.ca))
    async with AsyncCurriculumClient(target) as client:
        assert (await client.create_curriculum("env", exist_ok=True)).curriculum_id == "env"


def test_a_service_that_is_not_the_one_meant_is_not_talked_to(target: str, files: Files, tmp_path: Path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for wrong in (Tls(tmp_path / "other.pem"), Tls(files.ca, server_name="elsewhere.example.org"), False):
        with CurriculumClient(target, token=ADMIN, tls=wrong) as client:
            refusal = why_not(lambda seconds: client.get_curriculum("math", timeout_seconds=seconds))
            assert isinstance(refusal, UnavailableError)


def test_the_command_line_talks_to_it(target: str, files: Files):
    runner = CliRunner(env={"SAMPLER_TARGET": target, "SAMPLER_TOKEN": ADMIN})
    ca = ["--ca-file", str(files.ca)]
    made = runner.invoke(app, [*ca, "curricula", "create", "by-hand"])
    assert made.exit_code == 0, made.output
    assert "by-hand" in runner.invoke(app, [*ca, "curricula", "list"]).output
    assert runner.invoke(app, [*ca, "healthcheck", "--timeout", "60"]).output == "SERVING\n"
    refused = runner.invoke(app, [*ca, "curricula", "list"], env={"SAMPLER_TOKEN": "wrong"})
    assert refused.exit_code == 1
    assert "UNAUTHENTICATED TOKEN_UNKNOWN" in refused.stderr


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--tls"], "--ca-file"),
        (["--ca-file", "CA", "--server-name", "other.example.org"], "--server-name"),
    ],
)
def test_the_command_line_says_what_keeps_it_from_a_service_with_tls(
    target: str, files: Files, options: list[str], hint: str
):
    given = [str(files.ca) if option == "CA" else option for option in options]
    answer = CliRunner(env={"SAMPLER_TOKEN": ADMIN}).invoke(
        app, [*given, "curricula", "list", "--target", target, "--timeout", "60"]
    )
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"error: no service answers at {target}")
    assert hint in answer.stderr


def test_the_dashboard_is_served_over_https_and_healthcheck_can_ask_it(
    encrypted: ServiceProcess, files: Files
):
    url = f"https://{local(encrypted.http)}"
    trusting = ssl.create_default_context(cafile=files.ca)
    with urllib.request.urlopen(f"{url}/readyz", context=trusting, timeout=60) as answer:
        assert answer.status == 200
    assert CliRunner().invoke(app, ["healthcheck", "--http", url, "--timeout", "60"]).exit_code == 0
    assert CliRunner().invoke(app, ["healthcheck", "--http", "https://127.0.0.1:1"]).exit_code == 1


@pytest.fixture
async def mutual(
    files: Files, service_config: ServiceConfig, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """Mutual TLS; the certificate of trainer-1 stands for a token."""
    monkeypatch.setattr(credentials_module, "_LOOK_SECONDS", 0.0)
    by_name = Credential(name="trainer-1", certificate="trainer-1.example.org", role=Role.TRAIN)
    own = TlsSettings(
        cert_file=files.directory / "server.pem",
        key_file=files.directory / "server.key",
        client_ca_file=files.ca,
    )
    auth = AuthSettings(tokens=(*auth_settings().tokens, by_name))
    async with running_service(service_config.model_copy(update={"tls": own, "auth": auth})) as running:
        yield running.target


async def test_with_mutual_tls_a_certificate_opens_the_door_and_may_stand_for_a_token(
    mutual: str, files: Files
):
    async with AsyncCurriculumClient(mutual, tls=tls(files, "trainer")) as client:
        assert (await client.create_curriculum("math")).curriculum_id == "math"
        with pytest.raises(PermissionDeniedError):
            await client.delete_curriculum("math")
    async with AsyncCurriculumClient(mutual, tls=tls(files, "trainer"), token=ADMIN) as client:
        await client.delete_curriculum("math")


@pytest.mark.parametrize("own", [None, "stranger"])
async def test_with_mutual_tls_a_token_alone_does_not_open_it(mutual: str, files: Files, own: str | None):
    async with AsyncCurriculumClient(mutual, tls=tls(files, own), token=ADMIN) as client:
        refusal = await why_not_async(lambda seconds: client.get_curriculum("math", timeout_seconds=seconds))
        assert isinstance(refusal, UnavailableError)


async def test_a_renewed_certificate_serves_the_next_connection(mutual: str, files: Files):
    host, port = mutual.rsplit(":", 1)

    def served() -> bytes:
        context = ssl.create_default_context(cafile=files.ca)
        context.load_cert_chain(files.directory / "trainer.pem", files.directory / "trainer.key")
        context.check_hostname = False
        with socket.create_connection((host, int(port)), 60) as plain, context.wrap_socket(plain) as secure:
            return secure.getpeercert(binary_form=True) or b""

    before = await asyncio.to_thread(served)
    await asyncio.to_thread(time.sleep, 0.02)
    files.write("server", NAME, "127.0.0.1")
    assert await asyncio.to_thread(served) != before


def test_files_that_do_not_fit_are_said_at_the_start(files: Files, tmp_path: Path):
    arguments = ["--data-dir", str(tmp_path / "data"), "--tls-cert", str(files.directory / "server.pem")]
    process = ServiceProcess(
        *arguments, "--tls-key", str(files.directory / "trainer.key"), log=tmp_path / "log"
    )
    assert process.finish() == 1
    assert "files of tls cannot be used" in (tmp_path / "log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["log"], (
        "nothing is started before the files are known to fit"
    )


def test_workers_guard_their_shared_port_alike_and_notice_what_is_revoked(files: Files, tmp_path: Path):
    tokens = tmp_path / "tokens.yaml"
    write_token_file(
        tokens,
        [
            Credential(name="a", sha256=digest("the-token-of-a"), role=Role.ADMIN),
            Credential(name="b", sha256=digest("the-token-of-b"), role=Role.READ),
        ],
    )
    arguments = ["--workers", "2", "--data-dir", str(tmp_path / "data"), "--token-file", str(tokens)]
    arguments += ["--tls-cert", str(files.directory / "server.pem")]
    arguments += ["--tls-key", str(files.directory / "server.key")]

    def answers(token: str) -> set[str]:
        """What ten connections hear, whichever worker they reach."""
        heard = set()
        for _ in range(10):
            with CurriculumClient(service.target, token=token, tls=tls(files)) as client:
                try:
                    list(client.list_curricula())
                    heard.add("OK")
                except UnauthenticatedError as error:
                    heard.add(error.reason)
        return heard

    # How many refusals an address is allowed is not the subject here.
    patient = {"SAMPLER_AUTH__REFUSALS_PER_MINUTE": "1000000"}
    with service_process(*arguments, log=tmp_path / "log", environment=patient) as service:
        assert answers("the-token-of-a") == {"OK"}
        assert answers("a-guess") == {"TOKEN_UNKNOWN"}
        assert CliRunner().invoke(app, ["tokens", "revoke", "b", "--token-file", str(tokens)]).exit_code == 0
        deadline = time.monotonic() + 60
        while answers("the-token-of-b") != {"TOKEN_UNKNOWN"}:
            assert time.monotonic() < deadline, "a revoked token is still taken"
        assert answers("the-token-of-a") == {"OK"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_token_file_that_is_not_there_is_one_line_and_nothing_is_started(tmp_path: Path, workers: str):
    missing = tmp_path / "none.yaml"
    process = ServiceProcess(
        *("--workers", workers, "--data-dir", str(tmp_path / "data"), "--token-file", str(missing)),
        log=tmp_path / "log",
    )
    assert process.finish() == 1
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"error: the token file {missing} cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
