"""The demo with a tiny model: to its end, and to a Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


def command(output: Path, *arguments: str) -> list[str]:
    demo = [sys.executable, "-m", "examples.demo", "--model", "tiny", "--threads", "1"]
    return [*demo, "--task", "arithmetic", "--output", str(output), *arguments]


def is_listening(output: str) -> bool:
    found = re.search(r"dashboard\s+http://([\d.]+):(\d+)", output)
    assert found, output
    with socket.socket() as probe:
        return probe.connect_ex((found.group(1), int(found.group(2)))) == 0


def test_the_demo_compares_presets_and_leaves_a_table_a_picture_and_no_service(tmp_path: Path) -> None:
    arguments = ["--steps", "2", "--compare", "uniform-grpo"]
    done = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "held-out accuracy before",
        "groups with mixed outcomes",
        "service's share of the time",
        "uniform-grpo",
        "Difficulty of held-out prompts",
    ):
        assert text in done.stdout
    assert (tmp_path / "difficulty.png").read_bytes().startswith(b"\x89PNG")
    assert not is_listening(done.stdout)


def test_ctrl_c_shows_what_there_is_and_stops_the_service(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(tmp_path, "--steps", "100000"), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 600
        while "step 2/" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        assert is_listening(log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0, log.read_text()
    finally:
        process.kill()
    text = log.read_text()
    assert "The run in figures" in text
    assert "service stopped" in text
    assert "Traceback" not in text
    assert not is_listening(text)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--task", "no-such.jsonl"], "no-such.jsonl"), (["--preset", "nope"], "nope")]
)
def test_a_mistake_ends_the_demo_with_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
