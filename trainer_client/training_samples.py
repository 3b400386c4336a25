"""From groups with directives to samples with advantages."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer_client.client import Action
from trainer_client.config import LearnerConfig, RewardConfig
from trainer_client.learner.advantages import batch_advantages, keep_mask
from trainer_client.learner.masks import distinct_mask
from trainer_client.learner.objectives import objective_weight
from trainer_client.learner.positives import PositiveStore
from trainer_client.learner.samples import Sample
from trainer_client.learner.shaping import lead_weighted
from trainer_client.reward_shaping import shaped_rewards
from trainer_client.rollouts import Completion
from trainer_client.rounds import Group


def training_samples(
    groups: Sequence[Group],
    settings: LearnerConfig,
    success_threshold: float = 0.5,
    *,
    shaping: RewardConfig | None = None,
    max_tokens: int = 0,
    positives: PositiveStore | None = None,
) -> list[Sample]:
    """Samples to train on, group by group. max_tokens: where completions are cut.

    Advantages are taken over all counted rollouts of a prompt, then those that the directive does
    not keep are left out: a baseline over the kept ones alone would be biased.
    positives: takes in the right rollouts; a group that is all wrong is joined by its prompt's stored one.
    """
    shaping = shaping or RewardConfig()
    trained = [group for group in groups if not _is_dropped(group)]
    own = [len(group.counted()[0]) for group in trained]
    counted = [_with_positive(group, positives, success_threshold) for group in trained]
    shaped = [
        shaped_rewards(
            completions,
            rewards_G,
            shaping,
            settings,
            max_tokens=max_tokens,
            success_threshold=success_threshold,
        )
        for completions, rewards_G in counted
    ]
    advantages = batch_advantages(
        shaped,
        settings.advantage,
        baselines=[group.baseline for group in trained] if settings.advantage == "global" else None,
        success_threshold=success_threshold,
    )
    samples: list[Sample] = []
    for group, count, (completions, rewards_G), advantages_G in zip(
        trained, own, counted, advantages, strict=True
    ):
        if not completions:
            continue
        success_G = rewards_G > success_threshold
        advantages_G = advantages_G * objective_weight(
            settings.objective, float(success_G.mean()), settings.objective_exponent
        )
        if settings.lead_weights:
            advantages_G = lead_weighted(advantages_G, float(success_G.mean()))
        keep_G = np.ones(len(completions), dtype=np.bool_)
        weight = 1.0
        if group.directive is not None and group.directive.action is Action.DONE:
            keep_G = keep_mask(
                rewards_G, group.directive.keep_positives, group.directive.keep_negatives, success_threshold
            )
            weight = group.directive.advantage_weight
            # The service counts rollouts of this lease; a stored one is not among them.
            keep_G[count:] = True
        if shaping.mask_truncated:
            keep_G &= np.array([completion.finish_reason != "length" for completion in completions])
        if settings.mask_similarity is not None:
            token_ids = [completion.token_ids for completion in completions]
            keep_G &= distinct_mask(token_ids, success_G, settings.mask_similarity)
        samples.extend(
            Sample(
                group.prompt.prompt_id,
                group.prompt_token_ids,
                completions[index].token_ids,
                completions[index].log_probs,
                float(advantages_G[index] * weight),
                replayed=index >= count,
            )
            for index in np.flatnonzero(keep_G).tolist()
        )
    return samples


def _with_positive(
    group: Group, positives: PositiveStore | None, success_threshold: float
) -> tuple[list[Completion], NDArray[np.float64]]:
    """The group's counted rollouts, with the prompt's stored positive behind them where all are wrong."""
    completions, rewards_G = group.counted()
    if positives is None or not completions:
        return completions, rewards_G
    rights = np.flatnonzero(rewards_G > success_threshold)
    prompt_id = group.prompt.prompt_id
    if len(rights):
        positives.add(prompt_id, completions[rights[-1]], float(rewards_G[rights[-1]]))
        return completions, rewards_G
    stored = positives.find(prompt_id)
    if stored is None:
        return completions, rewards_G
    return [*completions, stored.completion], np.append(rewards_G, stored.reward)


def _is_dropped(group: Group) -> bool:
    return group.directive is not None and group.directive.action is Action.DROP
