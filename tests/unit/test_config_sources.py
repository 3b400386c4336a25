"""Where a setting comes from, which source wins, and how a wrong one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from sampler_service.config import ConfigError, ServiceConfig, load_config, unknown_variables

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SAMPLER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "service.yaml"
        path.write_text(text)
        return path

    return to_file


def test_the_defaults_are_an_embedded_log_on_loopback() -> None:
    config = load_config({})
    assert (config.grpc_host, config.grpc_port) == ("127.0.0.1", 50051)
    assert (config.http_host, config.http_port) == ("127.0.0.1", 8080)
    assert config.redis is None
    assert config.data_dir == Path("curriculum-data")


def test_options_win_over_the_environment_that_over_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("grpc_port: 1001\nhttp_port: 1002\ndrain_seconds: 3\n")
    monkeypatch.setenv("SAMPLER_GRPC_PORT", "2001")
    monkeypatch.setenv("SAMPLER_HTTP_PORT", "2002")
    config = load_config({"grpc_port": 3001}, file)
    assert (config.grpc_port, config.http_port, config.drain_seconds) == (3001, 2002, 3.0)


def test_parts_of_one_setting_may_come_from_several_sources(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("redis: {url: 'redis://file:1', username: ann}\nreplica: {snapshot_events: 7}\n")
    monkeypatch.setenv("SAMPLER_REDIS__PASSWORD", "hush")
    monkeypatch.setenv("SAMPLER_REPLICA__TICK_SECONDS", "0.5")
    config = load_config({"redis": {"url": "redis://option:1"}}, file)
    assert config.redis is not None
    assert config.redis.url == "redis://option:1"
    assert config.redis.username == "ann"
    assert config.redis.password is not None
    assert config.redis.password.get_secret_value() == "hush"
    assert (config.replica.snapshot_events, config.replica.tick_seconds) == (7, 0.5)


def test_a_port_of_zero_is_a_choice_and_not_an_absence() -> None:
    assert load_config({"grpc_port": 0, "http_port": 0}).grpc_port == 0


@pytest.mark.parametrize(
    ("options", "variables", "text", "said"),
    [
        ({"grpc_port": 70000}, {}, "", ["grpc_port = 70000", "the command line", "65535"]),
        ({}, {"SAMPLER_GRPC_PORT": "tcp"}, "", ["grpc_port = 'tcp'", "SAMPLER_GRPC_PORT", "integer"]),
        ({}, {}, "http_port: -2", ["http_port = -2", "service.yaml"]),
        ({}, {}, "colour: blue", ["colour", "service.yaml", "no setting"]),
        ({}, {}, "replica: {colour: blue}", ["replica.colour", "service.yaml", "no setting"]),
        ({}, {"SAMPLER_REPLICA__COLOUR": "blue"}, "", ["replica.colour", "SAMPLER_REPLICA__COLOUR"]),
        ({"redis": {"url": "http://x"}}, {}, "", ["redis.url", "the command line", "scheme"]),
        ({}, {"SAMPLER_REPLICA": "{"}, "", ["environment"]),
        ({}, {}, "- a\n- b\n", ["service.yaml", "list"]),
        ({}, {}, "a: [", ["service.yaml", "not YAML"]),
        ({"log_level": "loud"}, {}, "", ["log_level = 'loud'"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_source(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    variables: dict[str, str],
    text: str,
    said: list[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_config(options, write(text))
    assert len(str(caught.value).splitlines()) == 1
    for words in said:
        assert words in str(caught.value)


def test_every_fault_has_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"grpc_port": -5, "drain_seconds": -1})
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        load_config({}, tmp_path / "none.yaml")


def test_a_server_and_a_directory_for_the_log_exclude_each_other(write: Write) -> None:
    both = {"redis": {"url": "redis://a:1"}, "data_dir": "d"}
    with pytest.raises(ConfigError, match=r"the command line.* exclude each other"):
        load_config(both)
    with pytest.raises(ConfigError, match=r"service\.yaml.* exclude each other"):
        load_config({}, write(yaml.safe_dump(both)))


def test_a_stronger_source_may_move_the_log(write: Write) -> None:
    assert load_config({"data_dir": "d"}, write("redis: {url: 'redis://a:1'}")).redis is None
    moved = load_config({"redis": {"url": "redis://a:1"}}, write("data_dir: elsewhere"))
    assert moved.redis is not None


@pytest.mark.parametrize("field", ["grpc_host", "http_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_listening_for_others_must_be_meant(field: str, host: str) -> None:
    with pytest.raises(ConfigError, match=r"tokens create .*SAMPLER_AUTH__ADMIN_TOKEN.*--insecure"):
        load_config({field: host})
    assert getattr(load_config({field: host, "insecure": True}), field) == host
    token = {"admin_token": "one-that-is-long-enough"}
    assert getattr(load_config({field: host, "auth": token}), field) == host
    with pytest.raises(ConfigError, match="no tokens are set"):
        load_config({field: host, "auth": {"admin_token": ""}})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert load_config({"grpc_host": host}).grpc_host == host


def test_the_effective_configuration_shows_no_secret() -> None:
    redis = {
        "url": "redis://user:in-the-url@host:1/0",
        "password": "in-a-field",
        "sentinel_password": "in-another",
    }
    tokens = {"admin_token": "in-a-token-of-the-admins", "read_token": "in-a-token-of-readers"}
    text = load_config({"redis": redis, "auth": tokens}).to_yaml()
    assert "in-" not in text
    shown = yaml.safe_load(text)
    assert shown["redis"]["url"] == "redis://user:***@host:1/0"
    assert "data_dir" not in shown


def test_a_refused_token_is_not_repeated() -> None:
    for auth in ({"admin_token": "hush"}, {"tokens": [{"name": "a", "sha256": "hush", "role": "read"}]}):
        with pytest.raises(ConfigError) as caught:
            load_config({"auth": auth})
        assert "auth." in str(caught.value)
        assert "hush" not in str(caught.value)


def test_what_is_shown_can_be_read_again(write: Write) -> None:
    config = load_config({"grpc_port": 7, "log_format": "json"})
    assert load_config({}, write(config.to_yaml())) == config


def test_mistyped_variables_are_noticed_and_those_of_kubernetes_are_not() -> None:
    environment = {
        "SAMPLER_REDIS_URL": "redis://a",
        "SAMPLER_REDIS__URL": "redis://a",
        "SAMPLER_GRPC_PORT": "1",
        "SAMPLER_SERVICE_HOST": "10.0.0.1",
        "SAMPLER_PORT_50051_TCP_ADDR": "10.0.0.1",
        "SAMPLER_PORT": "tcp://10.0.0.1:50051",
        "SAMPLER_TARGET": "localhost:50051",
        "SAMPLER_TOKEN": "secret",
        "SAMPLER_CLIENT_CA_FILE": "ca.pem",
        "PATH": "/bin",
    }
    assert unknown_variables(environment) == ["SAMPLER_REDIS_URL"]


def test_every_setting_says_what_it_is() -> None:
    """A docstring below each field, in the models of all levels."""
    import inspect

    for model in (
        ServiceConfig,
        *(type(value) for value in vars(ServiceConfig()).values() if isinstance(value, BaseModel)),
    ):
        source = inspect.getsource(model)
        for name in model.model_fields:
            after = source.split(f"\n    {name}: ", 1)[1]
            assert '"""' in after.split("\n    @", 1)[0].split("\n    def ", 1)[0].split("\n\n", 2)[0], name
