"""Norm of the gradient of log π(rollout) for every rollout: what the CurES and GVM quotas weigh prompts by.

| method       | gradient with respect to                    | cost                                            |
|--------------|---------------------------------------------|-------------------------------------------------|
| `exact`      | the weights that are trained                | a forward and a backward pass for each rollout  |
| `last_layer` | the output head, whether or not it is trained | a forward pass over the batch                 |

For the head's weights the gradient is Σ_t d_t h_tᵀ with d_t = (onehot(token) - softmax) / temperature and
h_t the head's input, so its squared norm is Σ_tu (d_t · d_u)(h_t · h_u): nothing needs to be differentiated.
The paper (arXiv 2510.01037) does not say which weights its norms are of; both are ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from trainer_client.learner.log_probs import padded_completions, plain_logits
from trainer_client.learner.policy import Policy
from trainer_client.learner.samples import Sample

Method = Literal["exact", "last_layer"]


class GradientNorms(Protocol):
    """Measures rollouts."""

    def measure(self, samples: Sequence[Sample]) -> list[float]:
        """One norm per sample, in order; 0 for an empty completion."""
        ...


class PolicyGradientNorms:
    """Norms under a policy's present weights, which are left as they are."""

    def __init__(self, policy: Policy, method: Method) -> None:
        self._policy = policy
        self._method = method

    def measure(self, samples: Sequence[Sample]) -> list[float]:
        """One norm per sample, in order; 0 for an empty completion."""
        norms = dict.fromkeys(map(id, samples), 0.0)
        measured = [sample for sample in samples if sample.completion_token_ids]
        with _evaluating(self._policy.model):
            if self._method == "exact":
                for sample in measured:
                    norms[id(sample)] = self._exact(sample)
            else:
                for part in self._policy.parts(measured):
                    norms.update(zip(map(id, part), self._last_layer(part), strict=True))
        return [norms[id(sample)] for sample in samples]

    def _exact(self, sample: Sample) -> float:
        with torch.enable_grad():
            total = self._policy.log_probs([sample]).log_probs.sum()
            gradients = torch.autograd.grad(total, self._policy.parameters, allow_unused=True)
        squares = [gradient.float().pow(2).sum() for gradient in gradients if gradient is not None]
        return float(torch.stack(squares).sum().sqrt())

    @torch.no_grad()
    def _last_layer(self, part: Sequence[Sample]) -> list[float]:
        policy = self._policy
        inputs: list[Tensor] = []
        head = policy.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        try:
            targets_R_T, mask_R_T = padded_completions(part, policy.pad_id, policy.parameters[0].device)
            logits_R_T_V = plain_logits(policy.model, part, targets_R_T, mask_R_T, policy.pad_id).float()
        finally:
            hook.remove()
        hidden_R_T_D = inputs[0][:, :-1].float() * mask_R_T[:, :, None]
        temperature = policy.settings.temperature or 1.0
        pull_R_T_V = -torch.softmax(logits_R_T_V / temperature, dim=-1)
        pull_R_T_V.scatter_add_(2, targets_R_T[:, :, None], torch.ones_like(pull_R_T_V[:, :, :1]))
        pulls_R_T_T = torch.bmm(pull_R_T_V, pull_R_T_V.transpose(1, 2)) / temperature**2
        states_R_T_T = torch.bmm(hidden_R_T_D, hidden_R_T_D.transpose(1, 2))
        squares_R = (pulls_R_T_T * states_R_T_T).sum(dim=(1, 2))
        return [float(square) for square in squares_R.clamp(min=0).sqrt().tolist()]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
