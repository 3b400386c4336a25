"""Two replicas of one curriculum on a real log server, each behind a faulty wire; and the log's own account."""

from __future__ import annotations

import asyncio
import copy
import itertools
import shutil
import tempfile
import uuid
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.v1 import log_pb2
from sampler_service.curriculum.checkpoints import adopt_checkpoint
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import LogClient, RedisSettings, parse_revision
from sampler_service.log.keys import CurriculumKeys
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.shadowing import Shadowing
from tests.faulty_wire import Fault, FaultyWire
from tests.redis_servers import RedisServer

CURRICULUM = "math"
_TIMEOUT_SECONDS = 0.4
_SETTINGS = ReplicaSettings(tick_seconds=3600, snapshot_lock_seconds=0.3)


@dataclass
class Replica:
    """One replica: its wire, its connection, its memory."""

    wire: FaultyWire
    client: LogClient
    host: ReplicaHost
    shadowing: Shadowing


class Replicas:
    """What runs, and what may be done to it.

    Args:
        server: started; may be killed, stopped and started again here.
    """

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self._folder = tempfile.TemporaryDirectory(prefix="wire-")
        self._prefix = f"{uuid.uuid4().hex[:12]}:"
        self._numbers = itertools.count()
        self._old_data: Path | None = None
        self.account = LogAccount(server, CurriculumKeys.of(self._prefix, CURRICULUM))
        self.running: list[Replica] = []

    async def start(self) -> None:
        self.running = [await self._fresh(), await self._fresh()]

    async def stop(self) -> None:
        for replica in self.running:
            await self._drop(replica)
        self._folder.cleanup()

    async def _fresh(self) -> Replica:
        number = next(self._numbers)
        wire = await FaultyWire(
            Path(self._folder.name) / f"{number}.sock", self.server.socket_path, 1.5 * _TIMEOUT_SECONDS
        ).open()
        settings = RedisSettings(url=wire.url, key_prefix=self._prefix, timeout_seconds=_TIMEOUT_SECONDS)
        client = LogClient(settings)
        host = ReplicaHost(client, _SETTINGS, seed=number)
        shadowing = Shadowing(lambda: host._curricula, 1.0, report_seconds=0.0, patience_seconds=0.0)
        return Replica(wire, client, host, shadowing)

    @staticmethod
    async def _drop(replica: Replica) -> None:
        await replica.wire.close()
        await replica.client.aclose()

    async def crash(self, who: int, during: Awaitable[Any] | None = None, seconds: float = 0.0) -> None:
        """Drops a replica without a farewell, in the middle of something perhaps; another takes its place."""
        victim = self.running[who]
        task = asyncio.ensure_future(during) if during is not None else None
        await asyncio.sleep(seconds)
        await victim.wire.close()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await victim.client.aclose()
        self.running[who] = await self._fresh()

    async def hand_over(self, who: int) -> None:
        """A clean stop, which leaves a snapshot behind if the log lets it; another takes its place."""
        await self.running[who].host.close()
        await self._drop(self.running[who])
        self.running[who] = await self._fresh()

    def arm(self, who: int, fault: Fault, chunks_before: int) -> None:
        self.running[who].wire.arm(fault, chunks_before)

    async def cut(self, who: int) -> None:
        await self.running[who].wire.cut()

    def disarm(self) -> None:
        for replica in self.running:
            replica.wire.disarm()

    async def restart_server(self, *, kill: bool) -> None:
        """The server comes back with all that it acknowledged; a copy of its data is put aside."""
        await asyncio.to_thread(self.server.kill if kill else self.server.stop)
        aside = Path(self._folder.name) / "old-data"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self.server.directory, aside, ignore=shutil.ignore_patterns("*.sock"))
        self._old_data = aside
        await asyncio.to_thread(self.server.start)

    @property
    def has_old_data(self) -> bool:
        return self._old_data is not None

    def forget_old_data(self) -> None:
        """The log begins anew."""
        self._old_data = None
        self.account.forget()

    async def fall_back_to_old_data(self) -> None:
        """The server loses what came since its last restart, as after a fail-over to a lagging replica."""
        assert self._old_data is not None
        await asyncio.to_thread(self.server.kill)
        self.server.wipe()
        shutil.copytree(self._old_data, self.server.directory, dirs_exist_ok=True)
        await asyncio.to_thread(self.server.start)
        self.account.read_again()


class LogAccount:
    """Everything the log ever held, read past the replicas, and what it folds into."""

    def __init__(self, server: RedisServer, keys: CurriculumKeys) -> None:
        self._server = server
        self._keys = keys
        self._entries: dict[str, bytes] = {}

    def read_on(self) -> None:
        """Takes in what was appended; must be called before anything of it is trimmed."""
        after = f"({self.revision}" if self._entries else "-"
        with self._server.connection() as raw:
            found = raw.xrange(self._keys.log, after, "+")
            horizon = (raw.hget(self._keys.horizon, "revision") or b"0-0").decode()
        assert parse_revision(horizon) <= parse_revision(self.revision), "trimmed before it was read"
        for id_, fields in found:
            (payload,) = fields.values()
            self._entries[id_.decode()] = payload

    def forget(self) -> None:
        """The log was deleted."""
        self._entries = {}

    def read_again(self) -> None:
        """Forgets what the server has lost."""
        with self._server.connection() as raw:
            here = {id_.decode() for id_, _ in raw.xrange(self._keys.log)}
            horizon = parse_revision((raw.hget(self._keys.horizon, "revision") or b"0-0").decode())
        self._entries = {
            id_: payload
            for id_, payload in self._entries.items()
            if id_ in here or parse_revision(id_) <= horizon
        }

    @property
    def revision(self) -> str:
        return next(reversed(self._entries), "0-0")

    def __contains__(self, revision: str) -> bool:
        return revision in self._entries

    def __iter__(self) -> Iterator[str]:
        """Revisions, in log order."""
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def event(self, revision: str) -> log_pb2.Event:
        return log_pb2.Event.FromString(self._entries[revision])

    def revision_of(self, request_id: str) -> str:
        """Where a request was written last."""
        return next(
            revision
            for revision, payload in reversed(self._entries.items())
            if log_pb2.Event.FromString(payload).request_id == request_id
        )

    def fold(self, until: str = "") -> CurriculumState:
        """The state, from the first entry on, without snapshots or replicas."""
        machine: CurriculumMachine | None = None
        for revision, payload in self._entries.items():
            event, millis = log_pb2.Event.FromString(payload), parse_revision(revision)[0]
            if machine is None:
                machine = CurriculumMachine(create_state(event, revision, millis))
            else:
                if event.WhichOneof("event") == "checkpoint_restored":
                    self._go_back(machine, event)
                machine.apply(event, revision, millis)
            if revision == until:
                break
        assert machine is not None, "the log is empty"
        return machine.state

    def _go_back(self, machine: CurriculumMachine, event: log_pb2.Event) -> None:
        trial = copy.deepcopy(machine).apply(event, machine.state.revision, machine.state.millis)
        if trial.duplicate or trial.HasField("refusal"):
            return
        kept = machine.state.checkpoints[event.checkpoint_restored.checkpoint_id]["revision"]
        machine.state = adopt_checkpoint(self.fold(kept), machine.state)
