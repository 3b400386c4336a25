"""Starts the curriculum service as a process of its own and stops it again."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServiceProcess:
    """`sampler-service serve` on an embedded server in a data directory, on ports that are free.

    As a context it is stopped at the end. Its output goes to `service.log` in `log_directory`.
    Raises RuntimeError with the end of that log when it does not start.
    """

    def __init__(self, data_directory: Path, log_directory: Path) -> None:
        self.log_path = log_directory / "service.log"
        log_directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--data-dir", str(data_directory), "--grpc-port", "0", "--http-port", "0"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sampler_service", "serve", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the demo: it stops the service after its lease is released.
                start_new_session=True,
            )
        self.target = ""
        self.dashboard = ""

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_SECONDS
        try:
            while not (self.target and self.dashboard):
                if self._process.poll() is not None:
                    raise RuntimeError(f"the service ended at once:\n{self._tail()}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the service did not start in {START_SECONDS:.0f} s:\n{self._tail()}")
                time.sleep(0.1)
                self._read_addresses()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Asks it to end, and ends it when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read_addresses(self) -> None:
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        ready = re.search(r"^ready grpc=(\S+) http=(\S+)$", text, re.MULTILINE)
        if ready:
            self.target, self.dashboard = ready.group(1), f"http://{ready.group(2)}/"

    def _tail(self) -> str:
        text = self.log_path.read_text(encoding="utf-8", errors="replace").strip()
        return "\n".join(text.splitlines()[-15:]) or "(it said nothing)"
