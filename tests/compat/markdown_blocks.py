"""Runs the code blocks of a markdown page, one after the other, as a reader would.

A comment before a block says what is special about it:

    <!-- test: slow -->          only in the long suite
    <!-- test: background -->    keeps running while the others do; it must print where it serves
    <!-- test: stopped -->       what runs in the background is stopped first
    <!-- test: skip REASON -->   cannot run here
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
RUNNABLE = ("bash", "python")
SHOWN = ("text", "yaml", "proto", "promql")
"""Languages of blocks that are looked at, not run."""

_MARKER = re.compile(r"^<!-- test: (?P<marker>slow|background|stopped|skip)\b ?(?P<reason>.*?) ?-->$")
_NOT_COPIED = (
    ".git", ".venv*", "*_cache", "__pycache__", ".hypothesis", "*.egg-info", "runs", "test-artifacts",
    "curriculum-data", "build", "dist", "site",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    place: str
    """file:line, for messages."""
    language: str
    text: str
    marker: str = ""
    reason: str = ""


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    inside: list[str] | None = None
    language = marker = reason = ""
    start = 0
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if inside is None:
            if stripped.startswith("```"):
                inside, language, start = [], stripped.removeprefix("```").strip(), number
            elif match := _MARKER.match(stripped):
                marker, reason = match["marker"], match["reason"]
            elif stripped:
                assert "test:" not in stripped or not stripped.startswith("<!--"), f"{page}:{number}: marker?"
                marker = reason = ""
        elif stripped == "```":
            place = f"{page.relative_to(ROOT)}:{start}"
            found.append(Block(place, language, "\n".join(inside), marker, reason))
            inside, marker, reason = None, "", ""
        else:
            inside.append(line)
    assert inside is None, f"{page}: a block is never closed"
    return found


class Reader:
    """Somebody who follows a page in a copy of the repository, on ports that are free.

    The pages name the default ports; here they are replaced by free ones, so that tests run side by side
    and beside a service of yours.
    """

    def __init__(self, home: Path) -> None:
        self.checkout = home / "checkout"
        shutil.copytree(ROOT, self.checkout, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        self._home = home
        self._ports = {"50051": str(free_port()), "8080": str(free_port())}
        self._path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        if shutil.which("grpcurl") is None:
            self._path = f"{_programs(home)}:{self._path}"
        self._running: list[subprocess.Popen[bytes]] = []
        self._blocks = 0

    def follow(self, block: Block, timeout_seconds: float) -> None:
        """Runs a block to its end, or starts it when it is one for the background."""
        if block.marker == "stopped":
            self.close()
        self._blocks += 1
        script = self._home / f"block-{self._blocks}.{block.language}"
        text = block.text
        for default, port in self._ports.items():
            text = text.replace(default, port)
        if block.language == "bash":
            text = f"set -euo pipefail\n{text}\n"
            if block.marker != "background":
                # An activated environment stays active.
                text += f'printf %s "$PATH" > {self._home}/path\n'
        script.write_text(text, encoding="utf-8")
        if block.marker == "background":
            self._start(block, script)
            return
        answer = subprocess.run(
            [block.language, script],
            cwd=self.checkout,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_seconds,
        )
        assert answer.returncode == 0, (
            f"{block.place} ended with {answer.returncode}:\n{answer.stdout[-4000:]}"
        )
        if block.language == "bash":
            self._path = (self._home / "path").read_text()

    def close(self) -> None:
        """Ends what runs in the background."""
        for process in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            _wait_for_group(process.pid)
        self._running.clear()

    def _start(self, block: Block, script: Path) -> None:
        output = script.with_suffix(".log")
        with output.open("wb") as log:
            process = subprocess.Popen(
                [block.language, script],
                cwd=self.checkout,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        deadline = time.monotonic() + 180
        while f"ready grpc=127.0.0.1:{self._ports['50051']}" not in output.read_text(errors="replace"):
            said = output.read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"{block.place} ended with {process.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"{block.place} does not serve:\n{said}"
            time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SAMPLER_", "PYTEST_", "COV_", "MAKE", "MFLAGS", "VIRTUAL_ENV"))
        }
        ports = {"SAMPLER_GRPC_PORT": self._ports["50051"], "SAMPLER_HTTP_PORT": self._ports["8080"]}
        target = f"127.0.0.1:{self._ports['50051']}"
        return {**kept, **ports, "SAMPLER_TARGET": target, "PATH": self._path, "PYTHONUNBUFFERED": "1"}


def _programs(home: Path) -> Path:
    """A folder with a stand-in for what readers may have and this machine has not."""
    folder = home / "bin"
    folder.mkdir()
    stand_in = folder / "grpcurl"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("grpcurl.py")} "$@"\n')
    stand_in.chmod(0o755)
    return folder


def _wait_for_group(group: int, timeout_seconds: float = 180.0) -> None:
    """The shell ends at once; the service that it started drains first, and keeps its ports meanwhile."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
