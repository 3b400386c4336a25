"""Two replicas, one real log server, and whatever may happen, in any order: the guarantees hold all the same.

Hypothesis chooses the order. Everything is real but the network, which is a proxy that loses replies, tears
requests and delays. `tests/evidence_oracle.py` says what must be known after it; the log's own entries, folded
from the first one on, say what the state must be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import NotFound
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import LogError, LogUnavailableError, parse_revision
from sampler_service.replica.answers import curriculum_message
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.snapshotting import take_snapshot
from tests.curriculum_invariants import (
    no_lease_exceeds_its_budget,
    no_prompt_is_in_two_leases,
    the_weights_add_up,
)
from tests.curriculum_rules import SHORT, ClientRules, choice, replica
from tests.faulty_wire import Fault
from tests.redis_servers import SERVERS, binary_of, running_server, valkey_binary
from tests.replicas_under_faults import CURRICULUM


class AnyOrder(ClientRules):
    """What clients do, what time and housekeeping do, and what goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: dict[str, str] = {}
        self.positions: dict[int, tuple[int, str]] = {}

    # -- what time and housekeeping do -----------------------------------------------------

    async def loaded(self, who: int) -> CurriculumReplica:
        """A replica as it is, perhaps behind; loaded if it was not."""
        while True:
            try:
                return await self.replicas.running[who].host.replica(CURRICULUM)
            except LogUnavailableError:
                await asyncio.sleep(0.05)

    @rule(who=replica)
    def leases_expire(self, who: int) -> None:
        """By an event; one that comes too early does nothing."""

        async def expire() -> None:
            replica = await self.loaded(who)
            await asyncio.sleep(SHORT / 2)
            leases = list(replica.state.leases.live)
            event = log_pb2.Event(
                request_id=self.name("expire"), leases_expired=log_pb2.LeasesExpired(lease_ids=leases)
            )
            try:
                outcome = await replica.commit(event)
            except (LogError, NotFound):
                return  # The log is away, or this replica has not heard that it is another's by now.
            now = parse_revision(outcome.revision)[0]
            for lease_id in leases:
                lease = replica.state.leases.get(lease_id)
                if lease is not None and lease.state in ("live", "expired"):
                    assert (lease.state == "expired") == (lease.expire_millis <= now)

        self.run(expire())

    @rule(who=replica)
    def take_a_snapshot_and_trim(self, who: int) -> None:
        async def snapshot() -> None:
            try:
                await take_snapshot(await self.loaded(who))
            except LogError:
                return  # As housekeeping does: later is soon enough.

        self.run(snapshot())

    # -- what goes wrong ---------------------------------------------------------------------

    @rule(who=replica, fault=st.sampled_from(list(Fault)), chunks_before=st.integers(0, 12))
    def the_wire_will_fail(self, who: int, fault: Fault, chunks_before: int) -> None:
        self.replicas.arm(who, fault, chunks_before)

    @rule(who=replica)
    def connections_are_cut(self, who: int) -> None:
        self.run(self.replicas.cut(who))

    @rule(
        who=replica,
        during=st.sampled_from(["nothing", "grant", "report", "checkpoint", "snapshot"]),
        wait=choice,
    )
    def a_replica_crashes(self, who: int, during: str, wait: int) -> None:
        async def crash() -> None:
            task: Awaitable[Any] | None = None
            request: Any = None
            if during == "snapshot":
                task = take_snapshot(await self.loaded(who))
            elif during == "grant":
                request = self.batch_request(6, 96)
            elif during == "report":
                request = self.report_request(None)
            elif during == "checkpoint":
                request = pb.CreateCheckpointRequest(
                    curriculum_id=CURRICULUM,
                    request_id=self.name("keep"),
                    checkpoint_id=self.name("checkpoint"),
                )
            if request is not None:
                task = self.client.ask_a_dying_one(who, request)
            await self.replicas.crash(who, task, wait % 8 / 1000)

        self.run(crash())

    @rule(who=replica)
    def a_replica_hands_over(self, who: int) -> None:
        self.run(self.replicas.hand_over(who))

    @rule(kill=st.booleans())
    def the_server_restarts(self, kill: bool) -> None:
        self.run(self.replicas.restart_server(kill=kill))

    @precondition(lambda self: self.replicas.has_old_data)
    @rule(sure=st.integers(0, 3))
    def the_server_loses_its_last_writes(self, sure: int) -> None:
        if sure:
            return
        self.run(self.client.settle())
        self.run(self.replicas.fall_back_to_old_data())
        self.client.forget_what_was_lost()
        self.digests.clear()
        self.positions.clear()
        self.policy_version = 1000  # Whatever was lost, this is newer.

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def every_replica_is_sound_where_it_stands(self) -> None:
        self.replicas.account.read_on()
        for who, running in enumerate(self.replicas.running):
            if (known := running.host._curricula.find(CURRICULUM)) is not None:
                state = known.state
                self.only_forward(who, id(running), state.revision)
                assert self.digests.setdefault(state.revision, state.digest()) == state.digest()
                no_prompt_is_in_two_leases(state)
                no_lease_exceeds_its_budget(state)

    def only_forward(self, who: int, identity: int, revision: str) -> None:
        known, earlier = self.positions.get(who, (identity, revision))
        # Back it goes only where the server has lost what was there.
        lost = earlier not in self.replicas.account
        assert known != identity or lost or parse_revision(revision) >= parse_revision(earlier)
        self.positions[who] = (identity, revision)

    @rule()
    def everything_is_as_it_must_be(self) -> None:
        """A quiet moment: nothing under way, everything caught up."""
        self.replicas.disarm()
        self.run(self.client.settle())
        self.replicas.account.read_on()
        folded = self.replicas.account.fold()
        for who in (0, 1):
            state, planner = self.run(self.caught_up(who))
            assert state.revision == folded.revision
            assert state.digest() == folded.digest(), "the state is not the fold of the log"
            the_weights_add_up(planner)
            assert self.run(self.listed(who)) == curriculum_message(folded)
        self.evidence_is_prior_and_unique_reports(folded)

    async def caught_up(self, who: int) -> tuple[CurriculumState, Any]:
        deadline = time.monotonic() + 120
        while True:
            replica = await self.loaded(who)
            try:
                await replica.catch_up()
            except (LogUnavailableError, NotFound):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
                continue
            return replica.state, replica.planner

    async def listed(self, who: int) -> pb.Curriculum:
        """What a list says, of outlines that any replica may have kept at any time, once it is not behind."""
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = await self.replicas.running[who].host.list_curricula(pb.ListCurriculaRequest())
            except LogUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
                continue
            (only,) = answer.curricula
            return only

    def evidence_is_prior_and_unique_reports(self, state: CurriculumState) -> None:
        expected = self.client.expected()
        table = state.table
        ids = table.ids(np.arange(table.size))
        assert set(ids) == set(expected.tallies)
        tallies = [expected.tallies[id_] for id_ in ids]
        assert table.column("rollouts").tolist() == [tally.rollouts for tally in tallies]
        assert table.column("visits").tolist() == [tally.visits for tally in tallies]
        assert state.history.totals["rollouts"] == sum(tally.rollouts for tally in tallies)
        assert state.policy_version == expected.policy_version
        assert set(state.checkpoints) == set(expected.checkpoints)
        if self.ageless:
            assert table.column("successes").tolist() == [tally.positives for tally in tallies]
            assert table.column("failures").tolist() == [tally.negatives for tally in tallies]
            if state.preset != "frontier":
                alphas, betas = state.posterior(slice(None))
                assert alphas.tolist() == [1.0 + tally.positives for tally in tallies]
                assert betas.tolist() == [1.0 + tally.negatives for tally in tallies]

    def teardown(self) -> None:
        try:
            if self.replicas.running:
                self.everything_is_as_it_must_be()
        finally:
            self.run(self.replicas.stop())
            self.runner.close()


def check_any_order(binary: Path, examples: int, steps: int, *, derandomize: bool) -> None:
    """Runs the machine on a server of its own, which acknowledges nothing that a kill could lose.

    A failing run is not made smaller: time is real here, and what fails once need not fail at once again.
    """
    with running_server(binary, options={"appendfsync": "always"}) as server:
        on_this_server = type("AnyOrder", (AnyOrder,), {"server": server})
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            on_this_server,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                derandomize=derandomize,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_the_guarantees_hold_in_any_order_of_faults() -> None:
    check_any_order(valkey_binary(), examples=10, steps=40, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("server", SERVERS)
def test_the_guarantees_hold_in_any_order_of_faults_on(server: str) -> None:
    check_any_order(binary_of(server), examples=60, steps=60, derandomize=False)
