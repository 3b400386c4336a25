"""vLLM in a process of its own: what a trainer has of it, alone or as one of several ranks.

Apart, vLLM inherits neither the rank's place in a run (`engine_environment`) nor Ctrl-C, which ends a run in
order only if the engine outlives it; and it samples on while the trainer judges, reports and waits for others.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainer_client.rollouts.protocol import RolloutGroup, RolloutRequest, SamplingParams, in_one_session
from trainer_client.trainer_errors import ModelError

# vLLM takes a few seconds to end; it is not worth waiting for longer.
CLOSE_SECONDS = 20.0


class EngineProcess:
    """A `VllmEngine` elsewhere. Raises ModelError when it does not start.

    settings: the arguments of `VllmEngine`. environment: the process's whole environment.
    """

    def __init__(self, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        ours, theirs = Pipe()
        self._connection = ours
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer_client.rollouts.engine_host", str(theirs.fileno())],
            env=dict(environment),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            # A terminal's Ctrl-C and a launcher's SIGTERM are for the trainer, which closes the engine in order.
            start_new_session=True,
        )
        theirs.close()
        try:
            self._ask("start", dict(settings))
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Loads this version's adapter and samples from it from now on; None: from the base model."""
        self._ask("call", "update_policy", (version, adapter))

    def rest(self) -> None:
        """Gives the GPU's memory back until the next request, where `sleep` is set."""
        self._ask("call", "rest", ())

    def close(self) -> None:
        """Ends the process, and what it has started."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        # Whatever of it is left, such as vLLM's own workers after a crash.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def session(self, sampling: SamplingParams, seed: int) -> "ProcessSession":
        """Requests that end each in its own time."""
        return ProcessSession(self, sampling, seed)

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """All requests at once, each with its own n, in the order asked."""
        return in_one_session(self, requests, sampling, seed)

    def send(self, *message: Any) -> None:
        """Tells the process something. Raises ModelError when it has ended."""
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._ended() from error

    def receive(self, wait_seconds: float | None = None) -> Any:
        """Its next answer; None when none comes in time. Raises what it failed with."""
        kind, value = self._next(wait_seconds)
        if kind == "failed":
            raise value
        return value

    def skip_to(self, kind: str) -> None:
        """Lets answers that nobody wants any more go by, up to one of this kind."""
        while self._next(None)[0] != kind:
            pass

    def _next(self, wait_seconds: float | None) -> tuple[str, Any]:
        try:
            return self._connection.recv() if self._connection.poll(wait_seconds) else ("", None)
        except (EOFError, OSError) as error:
            raise self._ended() from error

    def _ask(self, *message: Any) -> Any:
        self.send(*message)
        return self.receive()

    def _ended(self) -> ModelError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        code = self._process.returncode
        how = "is not answering" if code is None else f"ended with status {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return ModelError(
            f"rollouts.engine vllm: its process {how}; its own output above says why "
            "(often memory: lower rollouts.gpu_memory_share or max_model_tokens)"
        )


class ProcessSession:
    """Requests in flight in the process. One that fails says so in `finished`."""

    def __init__(self, engine: EngineProcess, sampling: SamplingParams, seed: int) -> None:
        self._engine = engine
        self._sampling = sampling
        self._seed = seed
        self._in_flight = 0

    def __enter__(self) -> Self:
        self._engine.send("session", self._sampling, self._seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight = 0
        # An engine that is gone has been said, or will be when it is asked for something again.
        with contextlib.suppress(ModelError):
            self._engine.send("leave")
            self._engine.skip_to("left")

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Adds requests to those that are being sampled."""
        if requests:
            self._engine.send("submit", list(requests))
            self._in_flight += len(requests)

    def finished(self, wait_seconds: float | None = None) -> list[RolloutGroup]:
        """The groups done; waits for one as long as it takes, or so many seconds.

        Raises DataError for a prompt without room for a completion, ModelError when the engine has died.
        """
        if not self._in_flight:
            return []
        groups: list[RolloutGroup] = self._engine.receive(wait_seconds) or []
        self._in_flight -= len(groups)
        return groups
