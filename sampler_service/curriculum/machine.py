"""Events → state → outcome: the only writer of a curriculum's state.

`apply(event)` is deterministic and total: it draws nothing, reads no clock, and never raises for
anything a log can hold. An event that the state refuses changes nothing and comes to a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum import (
    checkpoints,
    closing,
    clustering,
    grants,
    iterations,
    reports,
    shadow_book,
)
from sampler_service.curriculum.arrays import distinct, from_bytes
from sampler_service.curriculum.errors import (
    Aborted,
    AlreadyExists,
    CurriculumError,
    FailedPrecondition,
    InvalidArgument,
)
from sampler_service.curriculum.fold_version import known_version, readable_strategy
from sampler_service.curriculum.history import FINE_BINS
from sampler_service.curriculum.shadow_book import ShadowBook
from sampler_service.curriculum.sources import COLD_START, CONTINUATION, REFERENCE
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy

__all__ = ["CurriculumMachine", "adopt_import", "create_state"]

# KL assumed for an advance that names none.
_ASSUMED_KL: Final = 0.01
_MAX_POLICY_VERSION: Final = 2**31 - 1


def create_state(event: log_pb2.Event, revision: str, millis: int) -> CurriculumState:
    """The state after a log's first event.

    Raises:
        InvalidArgument: the event does not create a curriculum.
        Unavailable: a newer release wrote it.
    """
    if event.WhichOneof("event") != "curriculum_created":
        raise InvalidArgument("NOT_CREATED", "The log does not begin with the creation of a curriculum.")
    created = event.curriculum_created
    state = CurriculumState(created.curriculum_id, readable_strategy(created.strategy_json), created.preset)
    state.fold_version = known_version(created.fold_version)
    state.revision = revision
    state.created_millis = state.millis = millis
    state.shadows = ShadowBook(revision, millis)
    state.requests.remember(event.request_id, event.fingerprint, log_pb2.Outcome(revision=revision))
    return state


class CurriculumMachine:
    """Folds events into a state, in log order.

    Args:
        state: taken over; nobody else may write to it.
    """

    def __init__(self, state: CurriculumState) -> None:
        self.state = state
        self._changed: list[NDArray[Any]] = []
        self.all_changed = True
        """Set when rows in general must be looked at again; readers clear it with `take_changes`."""
        self._rest: list[Callable[[], None]] = []
        self._checked: tuple[log_pb2.Event, str] | None = None
        """The event that passed `check` last, and the revision of the state that it passed on."""

    def take_changes(self) -> tuple[bool, NDArray[Any]]:
        """Whether everything changed, and else which rows did, since the last call."""
        everything, self.all_changed = self.all_changed, False
        rows = distinct(np.concatenate(self._changed)) if self._changed else np.zeros(0, dtype=np.int32)
        self._changed = []
        return everything, rows

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would have something to say."""
        return self.all_changed or bool(self._changed)

    def touch(self, rows: NDArray[Any]) -> None:
        """Notes that `rows` have changed."""
        self._changed.append(rows)

    # -- folding -------------------------------------------------------------

    def recall(self, event: log_pb2.Event) -> log_pb2.Outcome | None:
        """The first outcome of the event's request, if it was carried out before.

        Raises:
            InvalidArgument: its request id stands for another request.
        """
        return self.state.requests.recall(event.request_id, event.fingerprint)

    def check(self, event: log_pb2.Event) -> None:
        """Raises what `apply` would refuse, so that a bad request never reaches the log.

        Raises:
            CurriculumError: see `errors`.
        """
        kind = event.WhichOneof("event")
        if kind is not None and (checker := _CHECKS.get(kind)) is not None:
            checker(self.state, getattr(event, kind))
        self._checked = event, self.state.revision

    def apply(
        self, event: log_pb2.Event, revision: str, millis: int, *, finish: bool = True
    ) -> log_pb2.Outcome:
        """Folds one event.

        Args:
            event: as read from the log.
            revision: its position in the log.
            millis: the log's time of it.
            finish: False leaves what the outcome does not depend on to `finish`. Until that is called
                the state is for nobody to read but for its leases.
        """
        self.finish()
        outcome = self._begin(event, revision, millis)
        if finish:
            self.finish()
        return outcome

    @property
    def unfinished(self) -> bool:
        """Whether the last event is not wholly folded."""
        return bool(self._rest)

    def afterwards(self, step: Callable[[], None]) -> None:
        """Puts off a part of the fold that the event's outcome does not depend on; steps run in their order."""
        self._rest.append(step)

    def finish(self) -> None:
        """Does what the last event has put off."""
        rest, self._rest = self._rest, []
        for step in rest:
            step()

    def _begin(self, event: log_pb2.Event, revision: str, millis: int) -> log_pb2.Outcome:
        state = self.state
        # Mostly nobody else has written since the caller asked: then the state is the one it passed on.
        passed = (
            self._checked is not None and self._checked[0] is event and self._checked[1] == state.revision
        )
        self._checked = None
        state.revision = revision
        state.millis = max(millis, state.millis)
        try:
            earlier = self.recall(event)
            if earlier is not None:
                state.history.bump("duplicates")
                return earlier
            kind = event.WhichOneof("event")
            if not passed:
                self.check(event)
            if kind not in _APPLIERS:
                raise InvalidArgument("UNKNOWN_EVENT", f"This version cannot fold events of kind {kind!r}.")
            outcome = _APPLIERS[kind](self, getattr(event, kind))
        except CurriculumError as refusal:
            return log_pb2.Outcome(revision=revision, refusal=refusal.to_refusal())
        outcome.revision = revision
        state.requests.remember(event.request_id, event.fingerprint, outcome)
        return outcome

    # -- what several events do ------------------------------------------------

    def advance_policy(self, policy_version: int, kl: float | None) -> None:
        """One step of the policy."""
        state = self.state
        state.history.close_step(state.millis, state.policy_version)
        state.policy_version = policy_version
        state.movement = np.append(state.movement, state.movement[-1] + (_ASSUMED_KL if kl is None else kl))
        strategy = state.strategy
        evidence = strategy.estimator.shared_evidence
        evidence.advance(state.table, state.memory, state.moment())
        references = evidence.new_references(state.table, state.memory, state.moment())
        if references is not None:
            state.due.remove_source(REFERENCE)
            state.due.add(references, REFERENCE)
        strategy.proposal.advance(state.proposal_memory, state.moment())
        if strategy.clusters is not None:
            strategy.clusters.advance(len(state.cluster_names), state.cluster_memory, state.moment())
        self.all_changed = True
        if iterations.is_over(state):
            self.start_iteration()

    def start_iteration(self) -> None:
        """The next iteration: estimates start anew if the strategy says so."""
        state, strategy = self.state, self.state.strategy
        state.iteration += 1
        resets = strategy.iterations is not None and strategy.iterations.reset_estimates
        if resets or strategy.estimator.decay.resets_on_iteration:
            state.table.column("successes")[:] = 0
            state.table.column("failures")[:] = 0
            strategy.estimator.shared_evidence.forget_prompts(state.memory)
            state.recount()
        if strategy.iterations is not None:
            iterations.begin(state, onward=True)
        self.all_changed = True

    def note_policy_version(self, policy_version: int) -> None:
        """A request names a newer policy than the last advance: it has advanced without saying so."""
        if policy_version > self.state.policy_version:
            self.advance_policy(policy_version, None)

    def recount_bins(self, rows: NDArray[Any], before: NDArray[np.int64]) -> None:
        """Moves `rows` from their bins `before` to where they are now."""
        state = self.state
        after = state.fine_bins(rows)
        histogram = state.history.fine_histogram
        histogram -= np.bincount(before[before >= 0], minlength=FINE_BINS)
        histogram += np.bincount(after[after >= 0], minlength=FINE_BINS)
        state.unseen += int((after < 0).sum()) - int((before < 0).sum())


# -- prompts -------------------------------------------------------------------


def _split_ids(event: log_pb2.PromptsAdded) -> list[bytes]:
    ends = np.cumsum(from_bytes(event.id_lengths, "u2"), dtype=np.int64).tolist()
    blob = event.ids  # Each access to a bytes field copies it.
    return [blob[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _check_prompts(state: CurriculumState, event: log_pb2.PromptsAdded) -> None:
    dim = state.table.embedding_dim
    if event.embeddings and dim and event.embedding_dim != dim:
        raise FailedPrecondition(
            "EMBEDDING_DIM_CHANGED",
            f"embedding_dim = {event.embedding_dim}, but this curriculum's embeddings have {dim} dimensions.",
            "embedding_dim",
        )


def _add_prompts(machine: CurriculumMachine, event: log_pb2.PromptsAdded) -> log_pb2.Outcome:
    state, table = machine.state, machine.state.table
    ids = _split_ids(event)
    rows, added = table.add(ids)
    new = rows[added]
    if event.clusters:
        known = {name: i for i, name in enumerate(state.cluster_names)}
        mapping = np.full(len(event.cluster_names) + 1, -1, dtype=np.int32)  # last: no cluster
        for i, name in enumerate(event.cluster_names):
            if name not in known:
                known[name] = len(state.cluster_names)
                state.cluster_names.append(name)
            mapping[i] = known[name]
        clusters = mapping[from_bytes(event.clusters, "i4")]
        table.clusters[new] = clusters[added]
        missing = len(state.cluster_names) - state.cluster_sums.shape[1]
        state.cluster_sums = np.pad(state.cluster_sums, ((0, 0), (0, missing)))
        inside = clusters[added]
        state.cluster_sums[0] += np.bincount(inside[inside >= 0], minlength=len(state.cluster_names))
    if event.reference_pass_rates:
        values = from_bytes(event.reference_pass_rates, "f4")
        table.writable("reference_pass_rates")[new] = values[added]
    if event.anchor_pass_rates:
        anchors = from_bytes(event.anchor_pass_rates, "f4").reshape(-1, 2)[added]
        table.writable("weak_pass_rates")[new] = anchors[:, 0]
        table.writable("strong_pass_rates")[new] = anchors[:, 1]
    if event.embeddings:
        table.set_embeddings(new, from_bytes(event.embeddings, "f2").reshape(-1, event.embedding_dim)[added])
    state.unseen += len(new)
    if len(new):
        iterations.prompts_added(state, new)
        machine.touch(new)
    return log_pb2.Outcome(
        prompts_added=log_pb2.PromptsAddedOutcome(
            added=len(new), already_present=len(ids) - len(new), total=table.size
        )
    )


# -- policy and strategy ---------------------------------------------------------


def _check_advance(state: CurriculumState, event: log_pb2.PolicyAdvanced) -> None:
    if not 0 <= event.policy_version <= _MAX_POLICY_VERSION:
        raise InvalidArgument(
            "INVALID_POLICY_VERSION",
            f"policy_version = {event.policy_version} must be between 0 and {_MAX_POLICY_VERSION}.",
            "policy_version",
        )
    if event.policy_version < state.policy_version:
        raise FailedPrecondition(
            "POLICY_WENT_BACK",
            f"policy_version = {event.policy_version} is older than {state.policy_version}. "
            "A trainer that goes back to a checkpoint restores the curriculum's too (RestoreCheckpoint).",
            "policy_version",
        )
    if event.HasField("kl") and not (np.isfinite(event.kl) and event.kl >= 0):
        raise InvalidArgument("INVALID_KL", f"kl = {event.kl} must be finite and not negative.", "kl")


def _advance(machine: CurriculumMachine, event: log_pb2.PolicyAdvanced) -> log_pb2.Outcome:
    state = machine.state
    kl = event.kl if event.HasField("kl") else None
    before = state.iteration
    if event.policy_version > state.policy_version:
        machine.advance_policy(event.policy_version, kl)
    if event.start_iteration and state.iteration == before:
        machine.start_iteration()
    return log_pb2.Outcome()


def _check_strategy(state: CurriculumState, event: log_pb2.StrategyUpdated) -> None:
    if event.etag and event.etag != state.etag:
        raise Aborted(
            "ETAG_MISMATCH",
            f"etag = {event.etag!r}, but the strategy in force has {state.etag!r}: "
            "somebody changed it. Read it again (GetCurriculum) and decide anew.",
            "etag",
        )
    Strategy.from_json(event.strategy_json)


def _update_strategy(machine: CurriculumMachine, event: log_pb2.StrategyUpdated) -> log_pb2.Outcome:
    state = machine.state
    before, etag = state.strategy, state.etag
    state.set_strategy(Strategy.from_json(event.strategy_json), event.preset)
    # Never back: an older release that goes on using the log has folded with the newer one by now.
    state.fold_version = max(state.fold_version, event.fold_version)
    # What one model remembers says nothing to another.
    if state.strategy.estimator.shared_evidence != before.estimator.shared_evidence:
        state.memory = {}
    if state.strategy.proposal != before.proposal:
        state.proposal_memory = {}
    if state.strategy.clusters != before.clusters:
        state.cluster_memory = {}
    if state.strategy.cluster_source != before.cluster_source:
        state.clustering_memory = {}
    if state.strategy.iterations != before.iterations:
        state.iteration_memory = {}
        state.due.remove_source(COLD_START)
        if state.strategy.iterations is not None:
            iterations.begin(state, onward=False)
    if state.strategy.stopping != before.stopping:
        state.due.remove_source(CONTINUATION)
    if state.strategy.estimator.shared_evidence != before.estimator.shared_evidence:
        state.due.remove_source(REFERENCE)
    if state.etag != etag:
        # All strategies that are compared have seen the same batches.
        state.shadows = ShadowBook(state.revision, state.millis)
    state.recount()
    machine.all_changed = True
    return log_pb2.Outcome()


def _check_created(_: CurriculumState, event: log_pb2.CurriculumCreated | log_pb2.CurriculumImported) -> None:
    raise AlreadyExists(
        "CURRICULUM_EXISTS",
        f"curriculum_id = {event.curriculum_id!r} exists. Use it, delete it first, or choose another id.",
        "curriculum_id",
    )


# -- leases ----------------------------------------------------------------------


def _expire(machine: CurriculumMachine, event: log_pb2.LeasesExpired) -> log_pb2.Outcome:
    state = machine.state
    for lease_id in event.lease_ids:
        lease = state.leases.live.get(lease_id)
        if lease is not None and lease.expire_millis <= state.millis:
            closing.close_lease(machine, lease, "expired")
            state.history.bump("leases_expired")
    return log_pb2.Outcome()


def _check_release(state: CurriculumState, event: log_pb2.BatchReleased) -> None:
    if state.leases.get(event.lease_id) is None:
        raise reports.lease_not_found(event.lease_id)


def _release(machine: CurriculumMachine, event: log_pb2.BatchReleased) -> log_pb2.Outcome:
    lease = machine.state.leases.live.get(event.lease_id)
    released = 0 if lease is None else closing.close_lease(machine, lease, "released")
    return log_pb2.Outcome(batch_released=log_pb2.BatchReleasedOutcome(released=released))


# -- the whole state ---------------------------------------------------------------


def adopt_import(kept: CurriculumState, event: log_pb2.Event, revision: str, millis: int) -> CurriculumState:
    """The state after a log's first event, when that imports `kept` from another log.

    Leases and remembered requests stay: a trainer that moves over with the curriculum goes on. Checkpoints
    stay behind: they name snapshots of the other log.
    """
    kept.curriculum_id = event.curriculum_imported.curriculum_id
    kept.checkpoints = {}
    kept.revision = kept.shadows.revision = revision
    kept.millis = max(millis, kept.millis)
    kept.requests.remember(event.request_id, event.fingerprint, log_pb2.Outcome(revision=revision))
    return kept


Check = Callable[[CurriculumState, Any], None]
Apply = Callable[[CurriculumMachine, Any], log_pb2.Outcome]

_CHECKS: Final[dict[str, Check]] = {
    "curriculum_created": _check_created,
    "curriculum_imported": _check_created,
    "strategy_updated": _check_strategy,
    "prompts_added": _check_prompts,
    "batch_granted": grants.check,
    "rollouts_reported": reports.check,
    "batch_released": _check_release,
    "policy_advanced": _check_advance,
    "clusters_assigned": clustering.check,
    "shadows_scored": shadow_book.check,
    "checkpoint_created": checkpoints.check_creation,
    "checkpoint_restored": checkpoints.check_known,
    "checkpoint_deleted": checkpoints.check_known,
}
_APPLIERS: Final[dict[str, Apply]] = {
    "strategy_updated": _update_strategy,
    "prompts_added": _add_prompts,
    "batch_granted": grants.apply,
    "rollouts_reported": reports.apply,
    "batch_released": _release,
    "leases_expired": _expire,
    "policy_advanced": _advance,
    "clusters_assigned": clustering.apply,
    "shadows_scored": shadow_book.apply,
    "checkpoint_created": checkpoints.create,
    "checkpoint_restored": checkpoints.restored,
    "checkpoint_deleted": checkpoints.delete,
}
