"""A verifier with a time limit: it runs in a worker process that is killed when it takes too long."""

import contextlib
import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from trainer_client.tasks.protocol import VerifierError
from trainer_client.tasks.verifiers import load_verifier

# Starting a worker imports the verifier's libraries; that is not the completion's fault.
START_SECONDS = 60.0


class TimedVerifier:
    """Runs a named verifier in a process of its own; raises VerifierError past `timeout_seconds`.

    name: as for `load_verifier`. The worker is started on first use and again after it was killed.
    """

    def __init__(self, name: str, timeout_seconds: float = 5.0) -> None:
        load_verifier(name)  # A wrong name is an error now, not after the first rollout.
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, completion: str, answer: str) -> float:
        """The verifier's reward; VerifierError when it fails, dies or takes too long."""
        connection = self._connection or self._start()
        try:
            connection.send((completion, answer))
            if not connection.poll(self.timeout_seconds):
                self.close()
                raise VerifierError(f"verifier {self.name!r} took longer than {self.timeout_seconds} s")
            reward, problem = connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise VerifierError(f"verifier {self.name!r}: its process died ({error!r})") from error
        if problem:
            raise VerifierError(problem)
        return float(reward)

    def close(self) -> None:
        """Ends the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        # Spawned, not forked: a fork of a process with torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.name), daemon=True)
        process.start()
        there.close()
        self._process, self._connection = process, here
        if not here.poll(START_SECONDS):
            self.close()
            raise VerifierError(f"verifier {self.name!r}: its process did not start in {START_SECONDS:.0f} s")
        here.recv()
        return here


def _work(connection: Connection, name: str) -> None:
    verify = load_verifier(name)
    # What the verifier imports on its first call must not count as the first completion's time.
    with contextlib.suppress(Exception):
        verify("1", "1")
    connection.send("ready")
    while True:
        try:
            completion, answer = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            outcome = (verify(completion, answer), "")
        except Exception as error:
            outcome = (0.0, f"{type(error).__name__}: {error}")
        connection.send(outcome)
