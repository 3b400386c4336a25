"""Norm of the gradient of log π(rollout) for every rollout: what the CurES and GVM quotas weigh prompts by.

| method       | gradient with respect to                      | cost                                             |
|--------------|-----------------------------------------------|--------------------------------------------------|
| `exact`      | the weights that are trained                  | adapters: a forward and a backward pass over the |
|              |                                               | batch; all weights: one for each rollout         |
| `last_layer` | the output head, whether or not it is trained | a forward pass over the batch                    |

Rows of a batch do not mix, so for a linear layer y = W x the gradient of row r is Σ_t (∂/∂y_rt) x_rtᵀ: adapters
are small enough to have that product for every row.

For the head's weights the gradient is Σ_t d_t h_tᵀ with d_t = (onehot(token) - softmax) / temperature and
h_t the head's input, so its squared norm is Σ_tu (d_t · d_u)(h_t · h_u): nothing needs to be differentiated.
The paper (arXiv 2510.01037) does not say which weights its norms are of; both are ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from trainer_client.learner.log_probs import completion_log_probs, padded_completions, plain_logits
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
            adapters = _trained_linears(self._policy)
            if self._method == "exact" and not adapters:
                for sample in measured:
                    norms[id(sample)] = self._one_by_one(sample)
            else:
                for part in self._policy.parts(measured):
                    values = (
                        self._by_row(part, adapters) if self._method == "exact" else self._last_layer(part)
                    )
                    norms.update(zip(map(id, part), values, strict=True))
        return [norms[id(sample)] for sample in samples]

    def _by_row(self, part: Sequence[Sample], adapters: Sequence[nn.Linear]) -> list[float]:
        policy = self._policy
        passed: list[tuple[Tensor, Tensor]] = []
        hooks = [
            layer.register_forward_hook(lambda _, inputs, output: passed.append((inputs[0].detach(), output)))
            for layer in adapters
        ]
        try:
            with torch.enable_grad():
                found = completion_log_probs(
                    policy.model,
                    part,
                    temperature=policy.settings.temperature,
                    pad_id=policy.pad_id,
                    # A prompt read once for its group would have one gradient for all of them.
                    share_prompts=False,
                )
                outputs = [output for _, output in passed]
                gradients = torch.autograd.grad(found.log_probs.sum(), outputs, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        squares_R = torch.zeros(len(part), device=found.mask.device)
        for (inputs_R_T_I, _), gradient_R_T_O in zip(passed, gradients, strict=True):
            if gradient_R_T_O is not None:
                product_R_O_I = torch.bmm(gradient_R_T_O.float().transpose(1, 2), inputs_R_T_I.float())
                squares_R += product_R_O_I.pow(2).sum(dim=(1, 2))
        return [float(square) for square in squares_R.sqrt().tolist()]

    def _one_by_one(self, sample: Sample) -> float:
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


def _trained_linears(policy: Policy) -> list[nn.Linear]:
    """The adapters' layers, if they are all that is trained; else none."""
    if not hasattr(policy.model, "peft_config"):
        return []
    layers = [
        module
        for module in policy.model.modules()
        if isinstance(module, nn.Linear) and module.bias is None and module.weight.requires_grad
    ]
    return layers if {id(layer.weight) for layer in layers} == set(map(id, policy.parameters)) else []


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
