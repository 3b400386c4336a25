"""Strategies beside the one in force, as the API says them: over a recorded log, and live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.shadow_book import IN_FORCE, ShadowRecord
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.answers import timestamp

__all__ = ["shadows_message", "strategy_message"]

# Below so many groups of equal weight an estimate from weighted groups says nothing.
_LEAST_WEIGHTED_GROUPS: Final = 30.0
# The weight found must be near what is expected, or what it would choose is not in the served batches.
_SUPPORT: Final = (0.9, 1.1)


def strategy_message(
    name: str,
    estimator: str,
    sums: Mapping[str, float],
    bins: NDArray[np.float64],
    spearman: float,
    spearman_groups: int,
) -> pb.StrategyReplay:
    """Shares and means of one strategy's sums, which `StrategyFigures.sums` names; NaN where there are none."""

    def mean(part: str, whole: str) -> float:
        return _ratio(sums.get(part, 0.0), sums.get(whole, 0.0))

    counts, predicted, observed = bins
    weight, squares = sums.get("weight_sum", 0.0), sums.get("weight_square_sum", 0.0)
    groups = weight * weight / squares if squares > 0 else 0.0
    support = mean("support_found", "support_expected")
    sound = groups >= _LEAST_WEIGHTED_GROUPS and _SUPPORT[0] <= support <= _SUPPORT[1]
    return pb.StrategyReplay(
        strategy=name,
        estimator=estimator,
        calibration=pb.Calibration(
            predictions=int(sums.get("predictions", 0.0)),
            brier=mean("brier_sum", "predictions"),
            log_loss=mean("log_loss_sum", "predictions"),
            bin_counts=counts.astype(np.int64).tolist(),
            bin_predicted=_ratios(predicted, counts),
            bin_observed=_ratios(observed, counts),
            spearman=spearman,
            spearman_groups=spearman_groups,
        ),
        predicted_mixed_share=mean("predicted_mixed", "recorded_prompts"),
        expected_mixed_share=mean("expected_mixed", "planned_prompts"),
        quota_overlap=mean("overlap_rollouts", "compared_rollouts"),
        batch_overlap=mean("shared_prompts", "planned_prompts"),
        shared_groups=int(sums.get("shared_groups", 0.0)),
        shared_mixed_share=mean("shared_mixed", "shared_groups"),
        weighted_mixed_share=mean("weighted_mixed", "weight_sum") if sound else math.nan,
        weighted_groups=groups,
        weighted_support=support,
    )


def shadows_message(state: CurriculumState) -> pb.Shadows | None:
    """How the shadows have done since the strategy last changed; None when it has none."""
    shadows, book = state.strategy.shadows, state.shadows
    if not shadows:
        return None
    message = pb.Shadows(
        since_revision=book.since_revision,
        since_time=timestamp(book.since_millis),
        revision=book.revision,
        batches=book.batches,
        compared_batches=book.compared_batches,
    )
    if book.number:
        message.update_time.CopyFrom(timestamp(book.reported_millis))
    estimators = {name: shadow.strategy.estimator.name for name, shadow in sorted(shadows.items())}
    for name, estimator in {IN_FORCE: state.estimator_name, **estimators}.items():
        record = book.record(name)
        message.strategies.append(
            strategy_message(
                name, estimator, record.sums, record.bins, record.spearman, record.spearman_groups
            )
        )
        message.series.append(_series(name, record))
    return message


def _series(name: str, record: ShadowRecord) -> pb.ShadowSeries:
    sums = {key: np.array(values) for key, values in record.series.items()}
    return pb.ShadowSeries(
        strategy=name,
        policy_versions=record.policy_versions,
        briers=_ratios(sums["brier_sum"], sums["predictions"]),
        expected_mixed_shares=_ratios(sums["expected_mixed"], sums["planned_prompts"]),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ratios(part: NDArray[Any], whole: NDArray[Any]) -> list[float]:
    ratios: list[float] = np.where(whole > 0, part / np.maximum(whole, 1e-12), np.nan).tolist()
    return ratios
