"""docker-compose.yml: what it says holds, and its commands and environment run as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from sampler_service.config import ServiceConfig
from tests.ports import free_port
from tests.redis_servers import valkey_binary
from trainer_client.client import CurriculumClient
from trainer_client.config import load_config

ROOT = Path(__file__).parents[2]
VARIABLES = {
    "VALKEY_PASSWORD": "a-password-for-the-test",
    "SAMPLER_ADMIN_TOKEN": "the-token-of-the-administrator",
    "SAMPLER_TRAIN_TOKEN": "the-token-of-the-trainers",
    "SAMPLER_READ_TOKEN": "the-token-of-prometheus",
    "GRAFANA_PASSWORD": "a-password-for-grafana",
}
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as compose reads them."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"], "")
        if given:
            return given
        if match["how"] == "?":
            raise KeyError(f"{match['name']} {match['rest']}")
        assert match["how"] == "-", f"{match['name']} has neither a default nor a message"
        return match["rest"]

    return _VARIABLE.sub(value, text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    def resolve(node: Any) -> Any:
        if isinstance(node, str):
            return interpolated(node, variables)
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if isinstance(node, dict):
            return {key: resolve(item) for key, item in node.items()}
        return node

    resolved: dict[str, Any] = resolve(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    return resolved


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose(VARIABLES)["services"]
    return found


@pytest.fixture
def valkey_of_compose(services: dict[str, Any], tmp_path: Path) -> Iterator[int]:
    """The log server by its own command, on a free port of the loopback; its port."""
    command = services["valkey"]["command"]
    assert command[0] == "valkey-server"
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    with (tmp_path / "valkey.log").open("wb") as log:
        process = subprocess.Popen([valkey_binary(), *command[1:], *options], stdout=log, stderr=log)
    password = services["valkey"]["environment"]["VALKEYCLI_AUTH"]
    try:
        with redis.Redis(port=port, password=password) as client:
            deadline = time.monotonic() + 120
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline, (tmp_path / "valkey.log").read_text()
                    time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(120)


def environment_of(service: dict[str, Any], valkey_port: int, grpc: int, http: int) -> dict[str, str]:
    """The service's own environment, on this machine's loopback instead of the compose network."""
    own = dict(service["environment"])
    own["SAMPLER_REDIS__URL"] = own["SAMPLER_REDIS__URL"].replace("valkey:6379", f"127.0.0.1:{valkey_port}")
    own |= {"SAMPLER_GRPC_HOST": "127.0.0.1", "SAMPLER_HTTP_HOST": "127.0.0.1"}
    own |= {"SAMPLER_GRPC_PORT": str(grpc), "SAMPLER_HTTP_PORT": str(http)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAMPLER_")}
    return {**kept, **own}


def test_the_topology_serves_and_keeps_what_it_acknowledged_when_it_is_stopped(
    services: dict[str, Any], valkey_of_compose: int, tmp_path: Path
):
    service = services["sampler"]
    grpc, http = free_port(), free_port()
    environment = environment_of(service, valkey_of_compose, grpc, http)
    executable = Path(sys.executable).parent / "sampler-service"
    spent = 0
    for run in range(2):
        with (tmp_path / f"sampler-{run}.log").open("wb") as log:
            process = subprocess.Popen(
                [executable, *service["command"]], env=environment, cwd=tmp_path, stdout=log, stderr=log
            )
        try:
            token = services["trainer"]["environment"]["SAMPLER_TOKEN"]
            with CurriculumClient(f"127.0.0.1:{grpc}", token=token, timeout_seconds=120) as client:
                client.create_curriculum("math", exist_ok=True)
                client.add_prompts("math", ["a", "b", "c", "d"])
                batch = client.next_batch("math", batch_size=2, policy_version=run)
                client.report(batch, rewards=[[1.0] * int(n) for n in batch.quotas])
                spent += int(batch.quotas.sum())
                assert client.summary("math").rollouts_spent == spent
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=60) as answer:
                assert answer.status == 200
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"http://127.0.0.1:{http}/api/v1/curricula", timeout=60)
            probe = subprocess.run(
                [executable, "healthcheck", "--timeout", "60"],
                env={**environment, "SAMPLER_TARGET": f"127.0.0.1:{grpc}"},
            )
            assert probe.returncode == 0
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(seconds(service["stop_grace_period"])) == 0


def test_without_its_required_variables_it_says_which_one_and_what_to_do():
    with pytest.raises(KeyError, match=r"VALKEY_PASSWORD is not set; make \.env with deploy/new-env"):
        compose({})
    for name in VARIABLES:
        with pytest.raises(KeyError, match=f"{name} is not set"):
            compose({key: value for key, value in VARIABLES.items() if key != name})


def test_the_example_environment_names_every_variable_and_no_other():
    used = {match["name"] for match in _VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())}
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)) >= used - {
        "SAMPLER_IMAGE",
        "TRAINER_IMAGE",
        "TRAINER_GPU_IMAGE",
    }
    assert set(re.findall(r"^([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)) <= used
    for name in VARIABLES:
        assert f"\n{name}=\n" in example, "an example must not carry a secret that people keep"


def test_new_env_chooses_every_secret_anew():
    def made() -> dict[str, str]:
        text = subprocess.run(
            [ROOT / "deploy" / "new-env"], capture_output=True, text=True, check=True
        ).stdout
        return dict(re.findall(r"^([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE))

    first, second = made(), made()
    secrets = {name for name in first if first[name] != second[name]}
    assert secrets == set(VARIABLES)
    assert all(re.fullmatch(r"[0-9a-f]{48}", first[name]) for name in secrets)
    compose(first)


def test_the_service_stops_before_compose_kills_it(services: dict[str, Any]):
    sampler = services["sampler"]
    drain = float(sampler["environment"]["SAMPLER_DRAIN_SECONDS"])
    assert seconds(sampler["stop_grace_period"]) > drain + 5


def test_every_setting_in_it_is_a_setting_of_the_service(services: dict[str, Any]):
    for name in services["sampler"]["environment"]:
        path = name.removeprefix("SAMPLER_").lower().split("__")
        # SAMPLER_TOKEN is for the commands.
        assert path[0] in ServiceConfig.model_fields or name == "SAMPLER_TOKEN", name


def test_the_service_asks_everybody_for_a_token(services: dict[str, Any]):
    environment = services["sampler"]["environment"]
    assert "SAMPLER_INSECURE" not in environment
    assert {role for role in ("ADMIN", "TRAIN", "READ") if f"SAMPLER_AUTH__{role}_TOKEN" in environment} == {
        "ADMIN", "TRAIN", "READ"
    }  # fmt: skip


def test_nothing_is_published_beyond_loopback_and_the_log_not_at_all(services: dict[str, Any]):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["valkey"]


def test_our_containers_run_without_rights_on_a_root_they_cannot_write(services: dict[str, Any]):
    for name in ("sampler", "trainer", "trainer-gpu"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        dockerfile = (ROOT / services[name]["build"]["dockerfile"]).read_text()
        assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
        assert "ARG BASE_IMAGE=python:3.11-slim" in dockerfile


def test_containers_that_get_secrets_from_the_environment_can_be_written(services: dict[str, Any]):
    """Docker Compose copies such secrets into the container, and refuses to start one that is read-only."""
    with_secrets = [service for service in services.values() if service.get("secrets")]
    assert with_secrets
    assert not [service for service in with_secrets if service.get("read_only")]


def test_the_log_is_durable_and_never_evicts(services: dict[str, Any]):
    command = services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "log:/data" in services["valkey"]["volumes"]


def test_what_is_mounted_and_mentioned_is_there():
    text = interpolated((ROOT / "docker-compose.yml").read_text(), VARIABLES)
    resolved = yaml.safe_load(text)
    named_volumes = set(resolved["volumes"])
    for name, service in resolved["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            known = source in named_volumes or source == "./models" or (ROOT / source).exists()
            assert known, f"{name}: {source}"
        assert set(service.get("networks", [])) <= set(resolved["networks"])
        assert set(service.get("depends_on", [])) <= set(resolved["services"])
        assert set(service.get("secrets", [])) <= set(resolved["secrets"])
        assert "latest" not in service["image"]
    assert {profile for service in resolved["services"].values() for profile in service.get("profiles", [])} == {
        "demo", "gpu", "monitoring"
    }  # fmt: skip


def test_prometheus_may_read_the_metrics_of_what_compose_starts(
    services: dict[str, Any], valkey_of_compose: int, tmp_path: Path
):
    """By its own configuration: the token in its secret, the port, the job that alerts and panels name."""
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "curriculum-sampler"
    (target,) = job["dns_sd_configs"]
    assert target["names"] == ["sampler"]
    assert str(target["port"]) == services["sampler"]["environment"]["SAMPLER_HTTP_PORT"]
    secret = Path(job["authorization"]["credentials_file"]).name
    variable = compose(VARIABLES)["secrets"][secret]["environment"]
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert set(scrape["rule_files"]) <= mounted

    http = free_port()
    environment = environment_of(services["sampler"], valkey_of_compose, free_port(), http)
    executable = Path(sys.executable).parent / "sampler-service"
    with (tmp_path / "sampler.log").open("wb") as log:
        process = subprocess.Popen(
            [executable, "serve"], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{http}/metrics", headers={"authorization": f"Bearer {VARIABLES[variable]}"}
        )
        deadline = time.monotonic() + 120
        read = b""
        # The page answers a moment before the calls that are counted can come.
        while b"grpc_server_handled" not in read:
            assert time.monotonic() < deadline, f"no such metric:\n{read.decode()}"
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    read = answer.read()
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:
                continue
    finally:
        process.terminate()
        process.wait(120)


def test_the_trainer_on_a_gpu_reads_its_configuration(services: dict[str, Any]):
    service = services["trainer-gpu"]
    command = service["command"]
    overrides = [command[i + 1] for i, part in enumerate(command) if part == "--set"]
    config = load_config(ROOT / service["volumes"][0].split(":")[0], overrides)
    assert config.rollouts.engine == "vllm"
    assert config.model.path == service["volumes"][1].split(":")[1]
    assert "vllm" in service["build"]["args"]["EXTRAS"].split(",")
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


@pytest.mark.torch
def test_the_demo_trainer_reads_its_configuration(services: dict[str, Any]):
    command = services["trainer"]["command"]
    overrides = [command[i + 1] for i, part in enumerate(command) if part == "--set"]
    mounted = services["trainer"]["volumes"][0].split(":")
    assert command[command.index("--config") + 1] == mounted[1]
    config = load_config(ROOT / mounted[0], overrides)
    assert config.curriculum.target == "sampler:50051"
    assert services["trainer"]["profiles"] == ["demo"]


def seconds(text: str) -> float:
    """A duration such as 60s."""
    assert text.endswith("s")
    return float(text[:-1])
