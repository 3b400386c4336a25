"""The state of one curriculum: what its log folds into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1.log_pb2 import SnapshotColumn
from sampler_service.curriculum.arrays import from_json_array, to_json_array
from sampler_service.curriculum.decays import VisitTimes
from sampler_service.curriculum.due import DueBook
from sampler_service.curriculum.fold_version import known_version, readable_strategy
from sampler_service.curriculum.history import FINE_BINS, History
from sampler_service.curriculum.leases import LeaseBook
from sampler_service.curriculum.request_memory import RequestMemory
from sampler_service.curriculum.shadow_book import ShadowBook
from sampler_service.curriculum.strategy import Strategy
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import GradientNorms, Moment, PromptView, TableView

__all__ = ["CurriculumState"]

Rows = NDArray[Any] | slice
# Prompts counted together when all are.
_BLOCK: Final = 16_384

_MEMORIES: Final = ("memory", "proposal_memory", "cluster_memory", "iteration_memory", "clustering_memory")


class CurriculumState:
    """All that is known about one curriculum at one revision. Only `machine` and its parts change it."""

    def __init__(self, curriculum_id: str, strategy: Strategy, preset: str) -> None:
        self.curriculum_id = curriculum_id
        self.set_strategy(strategy, preset)
        self.revision = ""
        self.created_millis = 0
        self.fold_version = 1
        """The arithmetic in force; see `fold_version`."""
        self.millis = 0
        """Time of the last event."""
        self.epoch = 0
        """Grows whenever row numbers change their meaning."""
        self.policy_version = 0
        self.iteration = 0
        self.movement = np.zeros(1)
        """Cumulative KL of the policy at each policy step; starts [0]."""
        self.visits = 0
        self.in_flight = 0
        self.unseen = 0
        """Prompts without evidence."""
        self.table = PromptTable()
        self.cluster_names: list[str] = []
        self.cluster_sums = np.zeros((4, 0))
        """Per cluster: prompts, groups, mixed groups, rollouts."""
        self.leases = LeaseBook()
        self.requests = RequestMemory()
        self.history = History()
        self.memory: dict[str, NDArray[Any]] = {}
        """State of the shared-evidence model."""
        self.proposal_memory: dict[str, NDArray[Any]] = {}
        """State of the proposal."""
        self.cluster_memory: dict[str, NDArray[Any]] = {}
        """State of the arm over clusters."""
        self.clustering_memory: dict[str, NDArray[Any]] = {}
        """Centres of the clusters that the service found, and how far it has labelled."""
        self.iteration_memory: dict[str, NDArray[Any]] = {}
        """Where the present iteration stands."""
        self.due = DueBook()
        """Prompts to serve before any other."""
        self.checkpoints: dict[str, dict[str, Any]] = {}
        """By id: revision, millis, policy_version; oldest first."""
        self.shadows = ShadowBook()
        """How the shadow strategies have done."""

    def set_strategy(self, strategy: Strategy, preset: str) -> None:
        """Puts a strategy in force."""
        self.strategy = strategy
        self.strategy_json = strategy.to_json()
        self.preset = preset
        self.etag = strategy.etag
        self.estimator_name = strategy.estimator.name

    @property
    def policy_step(self) -> int:
        """How often the policy has advanced."""
        return len(self.movement) - 1

    def moment(self) -> Moment:
        """Where the curriculum stands."""
        return Moment(
            policy_step=self.policy_step,
            iteration=self.iteration,
            visits=self.visits,
            prompts=self.table.size,
            mean_reward=self.history.last_mean_reward,
            movement=self.movement,
            reference_pass_rates=self.table.column("reference_pass_rates")
            if self.table.has("reference_pass_rates")
            else None,
            memory=self.proposal_memory,
        )

    # -- reading -------------------------------------------------------------

    def posterior(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """α and β of `rows`: prior, shared evidence, and own evidence with its decay applied."""
        estimator, table = self.strategy.estimator, self.table
        if estimator.shared_evidence.holds_own_evidence:
            whole = estimator.shared_evidence.pseudo_counts(table, rows, self.memory)
            return np.asarray(whole[0], dtype=np.float64), np.asarray(whole[1], dtype=np.float64)
        times = VisitTimes(table.column("last_steps")[rows], self.moment())
        factors = estimator.decay.on_read(times)
        more_right, more_wrong = estimator.shared_evidence.pseudo_counts(table, rows, self.memory)
        alphas = (
            estimator.prior[0] + more_right + factors * table.column("successes")[rows].astype(np.float64)
        )
        betas = estimator.prior[1] + more_wrong + factors * table.column("failures")[rows].astype(np.float64)
        return alphas, betas

    def view(self, rows: Rows, *, gradient_norms: bool = False) -> PromptView:
        """Columns of `rows`."""
        table = self.table
        alphas, betas = self.posterior(rows)
        norms = self._norms(rows) if gradient_norms and table.has("norm_counts_right") else None
        return TableView(table.column, table.size, rows, alphas, betas, norms)

    def _norms(self, rows: Rows) -> GradientNorms:
        def mean(kind: str, side: str) -> NDArray[np.float64]:
            counts = self.table.column(f"norm_counts_{side}")[rows].astype(np.float64)
            sums = self.table.column(f"norm_{kind}_{side}")[rows].astype(np.float64)
            return np.where(counts > 0, sums / np.maximum(counts, 1e-30), np.nan)

        return GradientNorms(
            mean("sums", "right"), mean("squares", "right"), mean("sums", "wrong"), mean("squares", "wrong")
        )

    # -- the difficulty histogram ---------------------------------------------

    def fine_bins(self, rows: Rows) -> NDArray[np.int64]:
        """Bin of each row's own posterior mean, as evidence was last written; −1 without evidence."""
        a0, b0 = self.strategy.estimator.prior
        right = self.table.column("successes")[rows].astype(np.float64)
        wrong = self.table.column("failures")[rows].astype(np.float64)
        bins = np.minimum(
            ((right + a0) / (right + wrong + a0 + b0) * FINE_BINS).astype(np.int64), FINE_BINS - 1
        )
        return np.where(right + wrong > 0, bins, -1)

    def recount(self) -> None:
        """Makes the difficulty histogram anew. O(N)."""
        counts = np.zeros(FINE_BINS + 1, dtype=np.int64)
        for start in range(0, self.table.size, _BLOCK):
            rows = slice(start, min(start + _BLOCK, self.table.size))
            counts += np.bincount(self.fine_bins(rows) + 1, minlength=FINE_BINS + 1)
        self.unseen, self.history.fine_histogram = int(counts[0]), counts[1:]

    # -- snapshots -----------------------------------------------------------

    def export(self, *, table: bool = True) -> dict[str, NDArray[Any]]:
        """Everything in memory, as named arrays that nobody changes any more: what a snapshot holds.

        Args:
            table: False leaves the prompts out.
        """
        scalars = (
            "curriculum_id", "strategy_json", "preset", "revision", "created_millis", "millis", "epoch",
            "policy_version", "iteration", "visits", "in_flight", "unseen", "cluster_names", "checkpoints",
            "fold_version",
        )  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "state.meta": to_json_array({name: getattr(self, name) for name in scalars}),
            "state.movement": self.movement.copy(),
            "state.cluster_sums": self.cluster_sums.copy(),
        }
        for prefix, part in _parts(self).items():
            if prefix == "table" and not table:
                continue
            arrays |= {f"{prefix}.{name}": array for name, array in part.export().items()}
        for prefix in _MEMORIES:
            arrays |= {f"{prefix}.{name}": array.copy() for name, array in getattr(self, prefix).items()}
        return arrays

    @classmethod
    def restore(
        cls, arrays: Mapping[str, NDArray[Any]], away: Sequence[SnapshotColumn] = ()
    ) -> CurriculumState:
        """The inverse of `export`, which takes the arrays over.

        Args:
            away: columns of a snapshot that were not loaded: embeddings, which stay away.

        Raises:
            Unavailable: it was folded by a newer release.
        """

        def under(prefix: str) -> dict[str, NDArray[Any]]:
            cut = len(prefix) + 1
            return {name[cut:]: array for name, array in arrays.items() if name.startswith(f"{prefix}.")}

        own = under("state")
        meta = from_json_array(own["meta"])
        known_version(meta.get("fold_version", 1))
        state = cls(meta["curriculum_id"], readable_strategy(meta.pop("strategy_json")), meta["preset"])
        for name, value in meta.items():
            setattr(state, name, value)
        state.movement = np.array(own["movement"])
        state.cluster_sums = np.array(own["cluster_sums"])
        state.table = PromptTable.restore(under("table"), away)
        state.leases = LeaseBook.restore(under("leases"))
        state.requests = RequestMemory.restore(under("requests"))
        state.history = History.restore(under("history"))
        state.due = DueBook.restore(under("due"))
        state.shadows = ShadowBook.restore(under("shadows"))
        for prefix in _MEMORIES:
            setattr(state, prefix, {name: np.array(array) for name, array in under(prefix).items()})
        return state

    def digest(self) -> str:
        """Equal exactly when two states are equal to the last bit."""
        digest = hashlib.blake2b(digest_size=16)
        arrays = self.export()
        if self.table.embeddings is not None:
            digest.update(self.table.embeddings.digest())
            for name in self.table.embeddings.export():
                del arrays[f"table.{name}"]
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _parts(state: CurriculumState) -> dict[str, Any]:
    parts: Final[dict[str, Any]] = {
        "table": state.table,
        "leases": state.leases,
        "requests": state.requests,
        "history": state.history,
        "due": state.due,
        "shadows": state.shadows,
    }
    return parts
