"""Policy-gradient losses on padded token log-probabilities [R, T].

Every loss is a sum of token terms times weights that add up to 1 over the whole batch, so that
micro-batches simply add.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "sequence"]
Aggregation = Literal["token_mean", "sequence_mean", "fixed_length"]


@dataclass(frozen=True)
class LossTerms:
    """loss: scalar, carries the gradient. clipped: tokens (or sequences' tokens) whose gradient was cut."""

    loss: Tensor
    clipped_tokens: Tensor
    kl_sum: Tensor


def clipped_policy_loss(
    log_probs_R_T: Tensor,
    old_log_probs_R_T: Tensor,
    advantages_R: Tensor,
    mask_R_T: Tensor,
    weights_R_T: Tensor,
    *,
    ratio: Ratio = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    importance_R_T: Tensor | None = None,
    reference_log_probs_R_T: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> LossTerms:
    """PPO's clipped surrogate (arXiv 1707.06347), with its relatives by parameter.

    clip_high above clip_low is clip-higher (DAPO, arXiv 2503.14476: .28); ratio="sequence" is GSPO
    (arXiv 2507.18071): the geometric mean of the token ratios, clipped as one.
    weights_R_T: from `token_weights`. importance_R_T: truncated importance weights for samples of
    an engine whose log-probabilities differ from the learner's; constants.
    kl_coefficient: adds k3 against `reference_log_probs_R_T`.
    """
    log_ratio = (log_probs_R_T - old_log_probs_R_T) * mask_R_T
    if ratio == "sequence":
        log_ratio = _mean_of_sequence(log_ratio, mask_R_T)
    # exp overflows long before a ratio means anything; its clipped twin decides there.
    ratios = torch.exp(log_ratio.clamp(max=20.0))
    advantages = advantages_R[:, None]
    surrogate = torch.minimum(ratios * advantages, ratios.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if importance_R_T is not None:
        surrogate = surrogate * importance_R_T
    terms = -surrogate
    kl_sum = torch.zeros((), device=terms.device)
    if reference_log_probs_R_T is not None:
        kl = k3(log_probs_R_T, reference_log_probs_R_T) * mask_R_T
        terms = terms + kl_coefficient * kl
        kl_sum = kl.detach().sum()
    with torch.no_grad():
        cut = ((advantages > 0) & (ratios > 1 + clip_high)) | ((advantages < 0) & (ratios < 1 - clip_low))
        clipped = (cut * mask_R_T).sum()
    return LossTerms((terms * weights_R_T).sum(), clipped, kl_sum)


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy ‖ reference) for tokens drawn from the policy; never negative."""
    difference = (reference_log_probs - log_probs).clamp(max=20.0)
    return torch.exp(difference) - difference - 1


def token_weights(
    mask_R_T: Tensor,
    aggregation: Aggregation,
    *,
    total_tokens: int,
    total_sequences: int,
    max_tokens: int,
) -> Tensor:
    """Weight of each token in the batch's mean; the totals are those of the whole batch.

    token_mean: every token alike. sequence_mean: every sequence alike. fixed_length: token sums over
    a constant (Dr. GRPO), so that long wrong answers are not spared.
    """
    if aggregation == "token_mean":
        return mask_R_T / max(total_tokens, 1)
    if aggregation == "sequence_mean":
        return mask_R_T / mask_R_T.sum(dim=1, keepdim=True).clamp(min=1) / max(total_sequences, 1)
    return mask_R_T / (max(total_sequences, 1) * max_tokens)


def truncated_importance(
    learner_log_probs_R_T: Tensor,
    behaviour_log_probs_R_T: Tensor,
    cap_R_1: Tensor | float,
    mask_R_T: Tensor | None = None,
) -> Tensor:
    """min(π_learner / π_behaviour, cap) per token; a constant.

    Corrects for samples of an engine that computes differently, or of an earlier policy.
    mask_R_T: where given, the ratio is one per sequence, as GSPO's own: the geometric mean of its tokens'.
    """
    log_ratio = learner_log_probs_R_T - behaviour_log_probs_R_T
    if mask_R_T is not None:
        log_ratio = _mean_of_sequence(log_ratio * mask_R_T, mask_R_T)
    ratio = torch.exp(log_ratio.clamp(max=20.0))
    return torch.minimum(ratio, torch.as_tensor(cap_R_1, device=ratio.device, dtype=ratio.dtype)).detach()


def _mean_of_sequence(masked_R_T: Tensor, mask_R_T: Tensor) -> Tensor:
    """Every sequence's mean over its own tokens, at each of its places."""
    lengths_R_1 = mask_R_T.sum(dim=1, keepdim=True).clamp(min=1)
    return (masked_R_T.sum(dim=1, keepdim=True) / lengths_R_1).expand_as(masked_R_T)
