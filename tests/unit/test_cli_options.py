"""The command line without a service: options, errors, exit codes, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
import yaml
from typer.testing import CliRunner

from sampler_service import __version__
from sampler_service.cli import app
from sampler_service.cli.calls import _why_not
from sampler_service.cli.connection import Connection
from sampler_service.cli.strategy_text import read_strategy
from tests.service_process import ROOT

runner = CliRunner(env={"COLUMNS": "200", "SAMPLER_TARGET": None, "SAMPLER_CONFIG": None})


def test_the_version_is_the_packages() -> None:
    assert runner.invoke(app, ["--version"]).output == f"sampler-service {__version__}\n"


def test_config_prints_what_serve_would_use() -> None:
    given = ["config", "--grpc-port", "0", "--no-dashboard", "--data-dir", "here", "--appendfsync", "always"]
    shown = yaml.safe_load(runner.invoke(app, given).output)
    assert shown["grpc_port"] == 0
    assert shown["http_port"] == -1
    assert (shown["data_dir"], shown["appendfsync"]) == ("here", "always")


def test_what_is_no_part_of_a_strategy_is_named_with_those_that_are() -> None:
    with pytest.raises(
        typer.BadParameter, match="explore is no part of a strategy; the parts are preset, est"
    ):
        read_strategy("", '{"explore": 0.1}')
    assert read_strategy("", '{"rolloutsPerPrompt": 4}').rollouts_per_prompt == 4


def test_config_masks_the_password_of_a_url() -> None:
    output = runner.invoke(app, ["config", "--redis-url", "redis://:hush@host:1/0"]).output
    assert "hush" not in output
    assert "host:1" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redis-url", "redis://a:1", "--data-dir", "d"], "exclude each other"),
        (["--grpc-port", "70000"], "grpc_port = 70000 (from the command line)"),
        (["--grpc-host", "0.0.0.0"], "--insecure"),
        (["--redis-url", "ftp://a"], "redis.url (from the command line)"),
        (["--config", "no-such-file.yaml"], "no-such-file.yaml cannot be read"),
        (["--log-format", "xml"], "log_format = 'xml'"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "config"])
def test_a_wrong_option_is_one_line_and_exit_code_2(command: str, arguments: list[str], said: str) -> None:
    result = runner.invoke(app, [command, *arguments])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_serve_and_config_take_the_same_options() -> None:
    commands = {command.name: command for command in typer.main.get_command(app).commands.values()}  # type: ignore[attr-defined]
    names = {
        name: {option for parameter in commands[name].params for option in parameter.opts}
        for name in ("serve", "config")
    }
    assert names["serve"] == names["config"] - {"--json"}


def test_every_command_but_serve_speaks_json() -> None:
    def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield path, command
        for name, child in (children or {}).items():
            yield from leaves(child, f"{path} {name}".strip())

    found = dict(leaves(typer.main.get_command(app)))
    assert len(found) >= 14
    for name, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) == (name != "serve"), name


def test_config_and_healthcheck_speak_json() -> None:
    shown = json.loads(runner.invoke(app, ["config", "--grpc-port", "7", "--json"]).output)
    assert shown["grpc_port"] == 7
    asked = runner.invoke(app, ["healthcheck", "--target", "127.0.0.1:1", "--json"])
    assert (asked.exit_code, json.loads(asked.output)["status"]) == (1, "UNREACHABLE")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_presets(shell: str) -> None:
    def offered(words: str) -> str:
        environment = {
            "PATH": "/usr/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "_SAMPLER_SERVICE_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
            "_TYPER_COMPLETE_ARGS": words,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        code = "from sampler_service.cli import app; app(prog_name='sampler-service')"
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return ended.stdout

    assert "curricula" in offered("sampler-service cur")
    assert "healthcheck" not in offered("sampler-service cur")
    assert "reinforce-ada-pos" in offered("sampler-service curricula create x --preset rein")


def test_no_service_is_one_line_and_exit_code_1() -> None:
    result = runner.invoke(app, ["curricula", "list", "--target", "127.0.0.1:1", "--timeout", "60"])
    assert result.exit_code == 1
    assert "no service answers at 127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("details", "hint"),
    [
        ("Tls handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER: Invalid", "--no-tls"),
        ("last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "--tls"),
        ("recvmsg: Connection reset by peer", "--cert-file"),
        ("Connection refused", "is it running?"),
        ("", "is it running?"),
    ],
)
def test_what_keeps_a_command_from_the_service_is_guessed_from_what_grpc_says(
    details: str, hint: str
) -> None:
    assert hint in _why_not(details)


def test_healthcheck_of_nobody_fails() -> None:
    assert runner.invoke(app, ["healthcheck", "--target", "127.0.0.1:1"]).exit_code == 1


def test_a_strategy_may_be_json_a_yaml_file_or_the_document_of_the_docs(tmp_path: Path) -> None:
    parts = {"proposal": {"cures": {"temperature": 0.1}}, "exploration": 0.2}
    inline = read_strategy("cures", '{"proposal": {"cures": {"temperature": 0.1}}, "exploration": 0.2}')
    for values in (parts, {"strategy": parts}):
        file = tmp_path / "strategy.yaml"
        file.write_text(yaml.safe_dump(values))
        assert read_strategy("cures", str(file)) == inline
    assert inline.preset == "cures"
    assert inline.exploration == 0.2


@pytest.mark.parametrize("text", ["{", "no-such-file", '{"colour": 1}', '{"exploration": "much"}', "{1, 2}"])
def test_a_strategy_that_cannot_be_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        read_strategy("", text)


def test_an_update_of_nothing_is_a_usage_error() -> None:
    result = runner.invoke(app, ["curricula", "update", "x"])
    assert result.exit_code == 2
    assert "--strategy" in result.stderr


@pytest.mark.parametrize("heavy", ["trainer_client", "torch", "sampler_service.server", "redis", "fastapi"])
def test_the_command_line_starts_without(heavy: str) -> None:
    code = f"import sampler_service.cli, sys; sys.exit({heavy!r} in sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("target", "encrypted"),
    [
        ("127.0.0.1:1", False),
        ("localhost:1", False),
        ("[::1]:1", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", False),
        ("unix:/tmp/socket", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", True),
        ("sampler:1", True),
        ("dns:///sampler.example.org:1", True),
    ],
)
def test_a_token_leaves_this_machine_encrypted_or_not_at_all(
    target: str, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    for kind in ("insecure_channel", "secure_channel"):
        monkeypatch.setattr(grpc, kind, lambda *_, _kind=kind, **__: opened.append(_kind))
    monkeypatch.setattr(grpc, "intercept_channel", lambda channel, *_: channel)
    monkeypatch.setenv("SAMPLER_TOKEN", "a-token")
    Connection().open(target)
    Connection(tls=False).open(target)
    monkeypatch.delenv("SAMPLER_TOKEN")
    Connection().open(target)
    first = "secure_channel" if encrypted else "insecure_channel"
    assert opened == [first, "insecure_channel", "insecure_channel"]


def test_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    file = ["--token-file", str(tmp_path / "tokens.yaml")]
    made = runner.invoke(
        app, ["tokens", "create", "me", "--role", "train", "-c", "math*", "--expires", "2h", *file]
    )
    token = made.stdout.strip()
    assert token.startswith("cs_")
    assert token not in made.stderr
    assert token not in (tmp_path / "tokens.yaml").read_text()
    again = runner.invoke(app, ["tokens", "create", "me", "--role", "read", *file])
    assert (again.exit_code, "has 'me' already" in again.stderr) == (2, True)
    (listed,) = json.loads(runner.invoke(app, ["tokens", "list", "--json", *file]).output)["tokens"]
    assert (listed["role"], listed["curricula"]) == ("train", ["math*"])
    assert token not in runner.invoke(app, ["tokens", "list", *file]).output
    assert runner.invoke(app, ["tokens", "revoke", "you", *file]).exit_code == 2
    assert runner.invoke(app, ["tokens", "revoke", "me", *file]).output == "Revoked me.\n"
    assert json.loads(runner.invoke(app, ["tokens", "list", "--json", *file]).output) == {"tokens": []}


@pytest.mark.parametrize(
    "arguments",
    [["--expires", "soon"], ["--expires", "2001-01-01"], ["--curricula", "a*b"], ["--role", "king"]],
)
def test_a_token_that_means_nothing_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "tokens.yaml"
    given = ["tokens", "create", "me", "--token-file", str(file), "--role", "read", *arguments]
    assert runner.invoke(app, given).exit_code == 2
    assert not file.exists()
