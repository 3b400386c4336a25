"""How far the policy that sampled is from the one that learns: another engine's arithmetic, or an older version."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_client.learner.losses import truncated_importance
from trainer_client.learner.samples import Sample


@dataclass
class Agreement:
    """Sums over tokens; the means are 0 gap and weight 1 where nothing was compared.

    gap: mean |log π_learner - log π_engine| per token. importance: mean truncated weight. capped: share of
    tokens whose weight was cut. Replayed samples are left out: they are meant to be off.
    """

    tokens: float = 0.0
    gap_sum: float = 0.0
    importance_sum: float = 0.0
    capped_sum: float = 0.0

    def add(
        self,
        part: Sequence[Sample],
        learner_R_T: Tensor,
        behaviour_R_T: Tensor,
        cap: float,
    ) -> None:
        """Compares one part; what is beyond a completion's end is left out."""
        device = learner_R_T.device
        lengths_R = [0 if sample.replayed else len(sample.completion_token_ids) for sample in part]
        places_T = torch.arange(learner_R_T.shape[1], device=device)
        counted_R_T = places_T < torch.tensor(lengths_R, device=device)[:, None]
        weights_R_T = truncated_importance(learner_R_T, behaviour_R_T, cap)
        self.tokens += float(counted_R_T.sum())
        self.gap_sum += float(((learner_R_T - behaviour_R_T).abs() * counted_R_T).sum())
        self.importance_sum += float((weights_R_T * counted_R_T).sum())
        self.capped_sum += float(((weights_R_T >= cap) * counted_R_T).sum())

    @property
    def gap(self) -> float:
        """Mean distance of the log-probs."""
        return self.gap_sum / self.tokens if self.tokens else 0.0

    @property
    def importance(self) -> float:
        """Mean weight."""
        return self.importance_sum / self.tokens if self.tokens else 1.0

    @property
    def capped(self) -> float:
        """Share of tokens at the cap."""
        return self.capped_sum / self.tokens if self.tokens else 0.0
