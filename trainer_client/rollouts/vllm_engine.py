"""Rollouts by vLLM (extra `vllm`): requests join while others are sampled, one LoRA adapter per policy version.

What vLLM does that one must know:
- an adapter id or name that has been used keeps its old weights, and the prefix cache keeps keys and values
  computed with them: every published policy gets an id and a name of its own;
- log-probs are by default those before the temperature: away from temperature 1 the processed ones are
  asked for, which are also those after the top-p cut;
- a prompt's `n` may differ from its neighbours', so quotas need no padding;
- a request's seed serves its first completion, the others count on from it.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from trainer_client.rollouts.protocol import (
    Completion,
    FinishReason,
    RolloutGroup,
    RolloutRequest,
    SamplingParams,
    cut_at_stop,
    in_one_session,
)
from trainer_client.trainer_errors import DataError, ModelError

# The ranks vLLM has kernels for; an adapter is padded to the next one.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
ENVIRONMENT = {
    # A library should not report to anyone unasked.
    "VLLM_NO_USAGE_STATS": "1",
    # Its log has hundreds of lines; a run's own display would drown in them.
    "VLLM_LOGGING_LEVEL": "WARNING",
    # A forked child would inherit the threads' locks of gRPC and torch.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # On a CPU: sampler and learner take turns on the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class VllmEngine:
    """vLLM in this process; the trainer has it in one of its own (`engine_process`).

    Raises ModelError when vLLM is not installed or does not start.

    model: folder of the base model; adapters come by `update_policy`.
    temperature: of training rollouts; decides which log-probs are asked for.
    sleep: `rest` moves the weights off the GPU and drops the cache until the next request.
    arguments: further ones of `vllm.EngineArgs`, for instance `{"tensor_parallel_size": 2}`.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        temperature: float = 1.0,
        max_model_tokens: int = 4096,
        max_lora_rank: int = 16,
        gpu_memory_share: float = 0.45,
        sleep: bool = False,
        seed: int = 0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError as error:
            raise ModelError(
                f"rollouts.engine vllm: vLLM cannot be imported ({error}); install the 'vllm' extra, "
                "or set rollouts.engine: transformers"
            ) from error
        settings: dict[str, Any] = {
            "model": model,
            "dtype": dtype,
            "max_model_len": max_model_tokens,
            "enable_lora": True,
            "max_lora_rank": lora_rank_slot(max_lora_rank),
            "max_loras": 1,
            "enable_prefix_caching": True,
            "gpu_memory_utilization": gpu_memory_share,
            "enable_sleep_mode": sleep,
            "logprobs_mode": "raw_logprobs" if temperature == 1 else "processed_logprobs",
            "disable_log_stats": True,
            "seed": seed,
        }
        if not torch.cuda.is_available():
            # A prompt read in pieces winds its request's generator back, which a CPU's cannot do (vLLM 0.32):
            # more prompt tokens in flight than one step reads would end the engine.
            settings["enable_chunked_prefill"] = False
        try:
            self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**{**settings, **(arguments or {})}))
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ModelError(
                f"rollouts.engine vllm: the engine did not start: {error}; "
                "its own output above has the cause, rollouts.vllm_arguments its settings"
            ) from error
        self.policy_version = 0
        self._max_model_tokens = max_model_tokens
        self._sleep = sleep
        self._asleep = False
        self._adapter: Any = None
        self._published = 0

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Loads this version's adapter and samples from it from now on; None: from the base model.

        The one before it is dropped. Its folder is no longer read afterwards.
        """
        from vllm.lora.request import LoRARequest

        self.wake()
        previous, self._adapter = self._adapter, None
        if adapter is not None:
            # Not the version: a run that was resumed trains the same version again, with other weights.
            self._published += 1
            self._adapter = LoRARequest(f"policy-{self._published}", self._published, str(adapter))
            self._engine.add_lora(self._adapter)
        if previous is not None:
            # False where vLLM's own cache has already let go of it.
            self._engine.remove_lora(previous.lora_int_id)
        self.policy_version = version

    def rest(self) -> None:
        """Gives the GPU's memory back until the next request, where `sleep` is set."""
        if self._sleep and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def wake(self) -> None:
        """Takes the memory back. Requests and adapters do so by themselves."""
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False

    def close(self) -> None:
        """Ends the engine's process."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None

    def session(self, sampling: SamplingParams, seed: int) -> "VllmSession":
        """Requests that end each in its own time."""
        self.wake()
        return VllmSession(self._engine, self._adapter, sampling, seed, self._max_model_tokens)

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """All requests at once, each with its own n, in the order asked."""
        return in_one_session(self, requests, sampling, seed)


class VllmSession:
    """Requests in flight in vLLM; a group is done when its last completion is."""

    def __init__(
        self, engine: Any, adapter: Any, sampling: SamplingParams, seed: int, max_model_tokens: int
    ) -> None:
        self._engine = engine
        self._adapter = adapter
        self._sampling = sampling
        self._seed = seed
        self._max_model_tokens = max_model_tokens
        self._in_flight: dict[str, RolloutRequest] = {}
        self._done: list[RolloutGroup] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._in_flight:
            self._engine.abort_request(list(self._in_flight))
            self._in_flight.clear()

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Adds requests to those that are being sampled. Raises DataError for a prompt without room."""
        from vllm.inputs import tokens_input

        for request in requests:
            if request.n == 0:
                self._done.append(RolloutGroup(request.prompt_id, request.prompt_token_ids, ()))
                continue
            if len(request.prompt_token_ids) >= self._max_model_tokens:
                raise DataError(
                    f"prompt {request.prompt_id!r}: its {len(request.prompt_token_ids)} tokens leave no room "
                    f"for a completion; rollouts.max_model_tokens is {self._max_model_tokens}"
                )
            key = f"{request.prompt_id}/{request.first}"
            self._in_flight[key] = request
            self._engine.add_request(
                key,
                tokens_input(list(request.prompt_token_ids)),
                self._parameters(request),
                lora_request=self._adapter,
            )

    @property
    def busy(self) -> bool:
        """Whether anything is being sampled, or done and not yet fetched."""
        return bool(self._in_flight or self._done)

    def finished(self, wait_seconds: float | None = None) -> list[RolloutGroup]:
        """The groups done; vLLM samples the others on while the caller judges these.

        Waits for one however long it takes: whoever cannot, has the engine in a process of its own.
        Raises ModelError when vLLM's process has died.
        """
        del wait_seconds
        groups = self.advance()
        while self._in_flight and not groups:
            groups = self.advance()
        return groups

    def advance(self) -> list[RolloutGroup]:
        """One step of the engine, unless groups are done already; the groups done."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._in_flight and not self._done:
            try:
                outputs = self._engine.step()
            except EngineDeadError as error:
                raise ModelError(
                    "rollouts.engine vllm: its process has died; its own output above says why "
                    "(often memory: lower rollouts.gpu_memory_share or max_model_tokens)"
                ) from error
            for output in outputs:
                if output.finished and output.request_id in self._in_flight:
                    request = self._in_flight.pop(output.request_id)
                    completions = tuple(_completion(one, self._sampling) for one in output.outputs)
                    self._done.append(RolloutGroup(request.prompt_id, request.prompt_token_ids, completions))
        done, self._done = self._done, []
        return done

    def _parameters(self, request: RolloutRequest) -> Any:
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self._sampling
        return VllmSamplingParams(
            n=request.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop) or None,
            seed=prompt_seed(self._seed, request.prompt_id) + request.first,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def prompt_seed(seed: int, prompt_id: str) -> int:
    """A seed of 62 bits that prompts of one batch do not share, nor their completions' counts from it."""
    digest = hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def lora_rank_slot(rank: int) -> int:
    """The smallest rank that vLLM has and that holds `rank`. Raises ModelError beyond the largest."""
    for slot in LORA_RANKS:
        if rank <= slot:
            return slot
    raise ModelError(
        f"lora.rank {rank}: vLLM takes at most {LORA_RANKS[-1]}; use the transformers engine, "
        "or a smaller rank"
    )


def _completion(output: Any, sampling: SamplingParams) -> Completion:
    token_ids = tuple(output.token_ids)
    log_probs = tuple(
        float(entry[token].logprob) for token, entry in zip(token_ids, output.logprobs, strict=True)
    )
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
    return Completion(
        token_ids,
        log_probs,
        cut_at_stop(output.text, sampling.stop),
        reasons.get(output.finish_reason, "error"),
    )
