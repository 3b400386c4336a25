"""The process that vLLM runs in: `python -m trainer_client.rollouts.engine_host FD`.

FD is its end of a pair of sockets. What comes in:

    ("start", settings)             makes the engine                       answer: ("done", None)
    ("call", name, arguments)       one of its methods                     answer: ("done", value)
    ("session", sampling, seed)     begins a session                       no answer
    ("submit", requests)            adds to it                             ("groups", groups), as they are done
    ("leave",)                      gives up what is in flight             answer: ("left", None)

("failed", error) stands in for any answer. The other end closed: the trainer is gone, and so is this process.
"""

import contextlib
import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any

from trainer_client.rollouts.vllm_engine import VllmEngine, VllmSession
from trainer_client.trainer_errors import ModelError, TrainerError


class EngineHost:
    """Serves one engine to one trainer."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._engine: VllmEngine | None = None
        self._session: VllmSession | None = None

    def serve(self) -> None:
        """Until the trainer closes its end."""
        try:
            while True:
                try:
                    self._turn()
                except (EOFError, ConnectionError):
                    raise
                except Exception as error:
                    self._leave()
                    self._connection.send(("failed", _sendable(error)))
        except (EOFError, ConnectionError):
            # The trainer is through, or has died: nobody is there to be told anything.
            pass
        finally:
            if self._engine is not None:
                self._engine.close()

    def _turn(self) -> None:
        """What has come in first, so that new requests join at once; then one step of the engine."""
        while self._session is None or not self._session.busy or self._connection.poll():
            self._take(*self._connection.recv())
        groups = self._session.advance()
        if groups:
            self._connection.send(("groups", groups))

    def _take(self, kind: str, *content: Any) -> None:
        if kind == "start":
            self._engine = VllmEngine(**content[0])
            self._connection.send(("done", None))
        elif kind == "leave":
            self._leave()
            self._connection.send(("left", None))
        elif kind == "submit" and self._session is not None:
            self._session.submit(content[0])
        elif kind == "session" and self._engine is not None:
            self._session = self._engine.session(*content)
        elif kind == "call" and self._engine is not None:
            name, arguments = content
            self._connection.send(("done", getattr(self._engine, name)(*arguments)))
        # Else a message that was under way when its session or engine failed, which has been said.

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            # An engine that has died cannot abort what it no longer samples.
            with contextlib.suppress(Exception):
                session.__exit__(None, None, None)


def _sendable(error: Exception) -> TrainerError:
    if not isinstance(error, TrainerError):
        error = ModelError(f"rollouts.engine vllm: {type(error).__name__}: {error}")
    # vLLM's own errors, which may be its cause, need not exist in the trainer's process.
    error.__cause__ = error.__context__ = None
    pickle.dumps(error)
    return error


if __name__ == "__main__":
    EngineHost(Connection(int(sys.argv[1]))).serve()
