"""What parts of a strategy cannot work together, or not on a pool: refused with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sampler_service.curriculum.cluster_sources import KMeansLabels
from sampler_service.curriculum.errors import FailedPrecondition, InvalidArgument, renamed_fields
from sampler_service.curriculum.parts import Part

if TYPE_CHECKING:
    from sampler_service.curriculum.state import CurriculumState
    from sampler_service.curriculum.strategy import Strategy

__all__ = ["check_combination", "check_pool", "missing_columns"]

# Field of AddPrompts → the table's column that it fills.
_RATE_COLUMNS: Final = {
    "reference_pass_rates": "reference_pass_rates",
    "anchor_pass_rates": "weak_pass_rates",
}


def check_combination(strategy: Strategy) -> None:
    """Refuses parts that contradict one another.

    Raises:
        InvalidArgument: reason IMPOSSIBLE_COMBINATION; names the field to change.
    """
    _check_equal_quotas(strategy)
    _check_default_budget(strategy)
    _check_decay(strategy)


def _check_equal_quotas(strategy: Strategy) -> None:
    if not strategy.equal_quotas:
        return
    if strategy.quota.varies:
        raise _impossible(
            "strategy.quota",
            f"strategy.quota = {_name(strategy.quota)!r} gives prompts different numbers of rollouts, but"
            " strategy.equal_quotas says that the trainer cannot vary them. Use the quota fixed, or leave"
            " equal_quotas out.",
        )
    if strategy.stopping.for_batch(several_rounds=False).asks_for_more:
        raise _impossible(
            "strategy.stopping",
            f"strategy.stopping = {_name(strategy.stopping)!r} asks for more rollouts of some prompts, but"
            " strategy.equal_quotas says that the trainer cannot vary their number. Use one_shot,"
            " zero_variance or variance_floor, or leave equal_quotas out.",
        )


def _check_default_budget(strategy: Strategy) -> None:
    quota, each = strategy.quota, strategy.rollouts_per_prompt
    if not strategy.stopping.sets_rounds and not quota.least <= each <= quota.most:
        raise _impossible(
            "strategy.rollouts_per_prompt",
            f"strategy.rollouts_per_prompt = {each} is outside [{quota.least}, {quota.most}], the bounds of"
            f" strategy.quota = {_name(quota)!r}: its default budget could not be granted. Change one of them.",
        )


def _check_decay(strategy: Strategy) -> None:
    estimator = strategy.estimator
    if estimator.shared_evidence.holds_own_evidence and estimator.decay.ages:
        raise _impossible(
            "strategy.estimator.decay",
            f"strategy.estimator.shared_evidence = {_name(estimator.shared_evidence)!r} holds a prompt's own"
            f" outcomes and ages them itself, so the decay {_name(estimator.decay)!r} would have no effect."
            " Use decay none (or iteration_reset), or another shared evidence.",
        )


def missing_columns(strategy: Strategy, state: CurriculumState) -> list[tuple[str, str]]:
    """Parts that find nothing in the pool they work from: their field, and what is wrong in words. O(1).

    Empty while the pool is: nobody knows yet.
    """
    if state.table.size == 0:
        return []
    return [
        (
            field,
            f"{field} = {_name(part)!r} works from {' or '.join(part.needs)}, and no prompt has any",
        )
        for field, part in _parts(strategy)
        if part.needs and not any(_has(strategy, state, name) for name in part.needs)
    ]


def check_pool(strategy: Strategy, state: CurriculumState) -> None:
    """Refuses parts that find nothing in the pool they work from.

    Raises:
        FailedPrecondition: reason MISSING_COLUMNS; names the field to change.
    """
    for name, shadow in strategy.shadows.items():
        with renamed_fields(f"strategy.shadows.{name}"):
            check_pool(shadow.strategy, state)
    for field, fault in missing_columns(strategy, state):
        raise FailedPrecondition(
            "MISSING_COLUMNS",
            f"{fault}. Choose another method; or, since prompts keep what they were added with, create a"
            " curriculum whose prompts have it (AddPrompts).",
            field,
        )


def _has(strategy: Strategy, state: CurriculumState, name: str) -> bool:
    if name == "embeddings":
        return state.table.embedding_dim > 0
    if name == "clusters":
        found = isinstance(strategy.cluster_source, KMeansLabels) and state.table.embedding_dim > 0
        return bool(state.cluster_names) or found
    return state.table.has(_RATE_COLUMNS[name])


def _parts(strategy: Strategy) -> Iterator[tuple[str, Part]]:
    yield "strategy.estimator.shared_evidence", strategy.estimator.shared_evidence
    yield "strategy.proposal", strategy.proposal
    yield "strategy.quota", strategy.quota
    yield "strategy.stopping", strategy.stopping
    yield "strategy.cluster_source", strategy.cluster_source
    if strategy.clusters is not None:
        yield "strategy.clusters", strategy.clusters


def _name(part: Part) -> str:
    return type(part).registered_name


def _impossible(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("IMPOSSIBLE_COMBINATION", message, field)
