"""Settings of a training run: one YAML file, overridden by `--set a.b=c`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from trainer_client.learner.advantages import Estimator
from trainer_client.learner.losses import Aggregation, Ratio
from trainer_client.learner.objectives import Objective
from trainer_client.learner.replay import ReplayMethod
from trainer_client.setting_errors import described
from trainer_client.settings import Settings
from trainer_client.tasks.settings import TaskConfig
from trainer_client.trainer_errors import ConfigError
from trainer_client.yaml_settings import override, read_settings


class ModelConfig(Settings):
    """Which model, and how it reads prompts."""

    path: str = "smollm2"
    """A folder in Hugging Face format, `smollm2` (from its package) or `tiny` (random, for tests)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; adapters are float32 whatever this is. On a CPU float32 trains fastest."""
    mixed_precision: bool = False
    """Weights in float32, products of matrices in bfloat16: for training all weights on a GPU."""
    device: str = "auto"
    """`auto`: a GPU if there is one."""
    chat_template: bool = False
    """Wrap every prompt as a user's message by the tokenizer's chat template."""
    chat_template_file: Path | None = None
    """A Jinja template instead of the tokenizer's own; needs `chat_template`."""
    chat_template_arguments: dict[str, Any] = Field(default_factory=dict)
    """Handed to the template, for instance `enable_thinking: false`."""
    system_prompt: str = ""
    """Put before the prompt as a system message; needs `chat_template`. Tasks may have their own."""
    response_prefix: str = ""
    """Text that every completion goes on from, written after the prompt (and its template)."""
    max_prompt_tokens: int = Field(default=2048, ge=1)
    """Longer prompts are an error, named."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0: torch's choice."""

    @model_validator(mode="after")
    def _mixed_with_float32(self) -> Self:
        if self.mixed_precision and self.dtype != "float32":
            raise ValueError(f"mixed_precision keeps weights in float32, but dtype is {self.dtype}")
        return self

    @model_validator(mode="after")
    def _chat_settings_need_the_template(self) -> Self:
        for name in ("system_prompt", "chat_template_file", "chat_template_arguments"):
            if getattr(self, name) and not self.chat_template:
                raise ValueError(f"{name} is set but chat_template is false; set chat_template: true")
        return self


class LoraConfig(Settings):
    """Adapters on the linear layers."""

    rank: int = Field(default=16, ge=1)
    """Rank of every adapter."""
    alpha: int = Field(default=32, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the adapters' input. Above 0 the policy that learns is not quite the one that sampled."""
    modules: tuple[str, ...] | None = None
    """Names of the linear layers (`q_proj`), or the ends of their paths; none: all but the output head."""
    exclude_modules: tuple[str, ...] = ()
    """Names of linear layers to leave alone."""
    layers: tuple[int, ...] | None = None
    """Numbers of the model's blocks; none: all."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """A rank of its own for some layers, by name; alpha / rank stays what it is."""
    rank_stabilised: bool = False
    """Scale by alpha / √rank instead (arXiv 2312.03732)."""

    @model_validator(mode="after")
    def _ranks_are_positive(self) -> Self:
        for name, rank in self.ranks.items():
            if rank < 1:
                raise ValueError(f"ranks: {name!r} must be at least 1, got {rank}")
        return self

    @property
    def largest_rank(self) -> int:
        """The largest rank of any adapter."""
        return max(self.rank, *self.ranks.values(), self.rank)


class CurriculumConfig(Settings):
    """The service, the curriculum on it, and the size of a batch."""

    target: str = "127.0.0.1:50051"
    """Address of the service, host:port."""
    token_file: Path | None = None
    """File with the bearer token, where the service wants one; default: SAMPLER_TOKEN, SAMPLER_TOKEN_FILE."""
    tls: bool | None = None
    """Encrypt; default: with files below, and when a token would cross the network in the clear."""
    ca_file: Path | None = None
    """Authorities to trust in place of the system's."""
    cert_file: Path | None = None
    """Our own certificate, for mutual TLS."""
    key_file: Path | None = None
    """Its private key."""
    server_name: str = ""
    """Name to expect in the service's certificate, where it differs from the target."""
    curriculum_id: str = ""
    """Default: the run's name. An existing one is carried on with, its strategy as it is."""
    strategy: str | dict[str, Any] = "frontier"
    """A preset's name, or a preset with parts over it."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts per step."""
    rollout_budget: int = Field(default=0, ge=0)
    """Rollouts per step, all rounds; 0: the strategy's default."""
    equal_quotas: bool = False
    """The same number of rollouts for every prompt."""
    repeatable: bool = True
    """Batches follow from `seed`: a resumed run repeats them. Looks at the whole pool for every batch."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """How long one call is retried."""
    patience_seconds: float = Field(default=600.0, ge=0)
    """How long a service that is away is waited for in all, with back-off; then the run ends."""
    carry_on: bool = False
    """... or goes on: uniform draws from the pool, reported when the service is back."""

    @model_validator(mode="after")
    def _tls_files_need_tls(self) -> Self:
        files = (self.ca_file, self.cert_file, self.key_file)
        if self.tls is False and (any(files) or self.server_name):
            raise ValueError("tls is false, and files for it are given; leave one out")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; give both or neither")
        return self


class RolloutConfig(Settings):
    """How completions are sampled."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """Where."""
    temperature: float = Field(default=1.0, gt=0)
    """Of training rollouts."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Below 1 the sampled policy is not the one that is trained: the ratios are then approximate."""
    max_tokens: int = Field(default=64, ge=1)
    """Longer completions are cut and marked as truncated."""
    lookahead: int = Field(default=0, ge=0, le=8)
    """Batches rolled out while earlier ones are trained on; none samples from a policy older than that."""
    max_staleness: int | None = Field(default=None, ge=0)
    """Rollouts that end more versions after the one they were sampled from are stale: no outcomes."""
    max_batch_rows: int = Field(default=64, ge=1)
    """transformers engine: rollouts sampled at once."""
    max_model_tokens: int = Field(default=4096, ge=1)
    """vLLM engine: longest prompt and completion together."""
    gpu_memory_share: float = Field(default=0.45, gt=0, le=1)
    """vLLM engine: share of the GPU's memory, the learner needs the rest."""
    sleep: bool = False
    """vLLM engine: leaves the GPU's memory to the learner between rollouts; costs a copy of the weights."""
    vllm_arguments: dict[str, Any] = Field(default_factory=dict)
    """vLLM engine: further arguments of `vllm.EngineArgs`, such as `{tensor_parallel_size: 2}`."""


class RewardConfig(Settings):
    """What the learner adds to the verdicts. The service is told the verdicts as they are."""

    format_pattern: str | None = None
    """A regular expression that a completion of the wanted form contains (`.` matches line ends too)."""
    format_reward: float = 0.0
    """Added for the wanted form."""
    overlong_buffer_tokens: int = Field(default=0, ge=0)
    """DAPO's soft punishment: over the last so many tokens before `rollouts.max_tokens`; 0: off."""
    overlong_penalty: float = Field(default=1.0, gt=0)
    """... falling to minus this."""
    mask_truncated: bool = False
    """Completions that were cut are not trained on; they count for the baseline."""
    lead_penalties: bool = False
    """GRPO-LEAD: wrong -1, without an answer (`format_pattern` does not match) 0, repeating itself -2."""

    @model_validator(mode="after")
    def _pattern_fits(self) -> Self:
        if self.format_pattern is None:
            if self.format_reward or self.lead_penalties:
                raise ValueError("format_reward and lead_penalties need format_pattern; set it")
            return self
        try:
            re.compile(self.format_pattern)
        except re.error as error:
            raise ValueError(f"format_pattern is not a regular expression: {error}") from error
        return self


class LearnerConfig(Settings):
    """How rewards become an update."""

    advantage: Estimator = "grpo"
    """Advantage estimator."""
    objective: Objective = "linear"
    """What of a prompt's pass rate p is maximised: p, log p, a `power` of it, or 2 asin √p (`arcsin`)."""
    objective_exponent: float = Field(default=0.5, gt=0, le=1)
    """The exponent of `power`."""
    lead_weights: bool = False
    """Weigh advantages by difficulty as GRPO-LEAD does."""
    length_reward: float = Field(default=0.0, ge=0)
    """GRPO-LEAD's length reward among correct answers: its strength (the paper: .05); 0: off."""
    mask_similarity: float | None = Field(default=None, gt=0, lt=1)
    """DaGRPO-like mask (our reading): leaves out rollouts this similar to all of the opposite sign."""
    stored_positives: int = Field(default=0, ge=0)
    """DaGRPO: an all-wrong group trains with its prompt's last right rollout; kept for so many prompts."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """LoRA takes about ten times that of full fine-tuning; small models take more."""
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    epochs: int = Field(default=1, ge=1)
    """Updates per batch."""
    ratio: Ratio = "token"
    """`sequence`: GSPO."""
    clip_low: float = Field(default=0.2, gt=0)
    """The ratio is clipped below 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """... and above 1 + clip_high; .28 is clip-higher."""
    aggregation: Aggregation = "token_mean"
    """How tokens and sequences are averaged."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL to the model that training started from."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Padded tokens per forward and backward pass; bounds the memory."""
    gradient_checkpointing: bool = False
    """Less memory, about a third more time; prompts are then read once per rollout."""
    recompute_log_probs: bool | None = None
    """Old log-probs from the learner, with a correction for what sampled; none: with vLLM or lookahead."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Largest such correction, per token."""
    gradient_norms: Literal["last_layer", "exact"] | None = None
    """Reported per rollout, for the quotas that weigh prompts by them; none: they go by pass rates."""
    max_kl: float = Field(default=5.0, gt=0)
    """A mean KL per token above this in `patience` steps in a row ends the run."""
    explosion_gradient_norm: float = Field(default=1e4, gt=0)
    """So does a gradient norm above this, before it is scaled down, or one that is not finite."""
    patience: int = Field(default=3, ge=1)
    """Steps with an exploded KL or gradient before the run ends."""

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.objective != "linear" and self.advantage not in ("dr_grpo", "rloo"):
            raise ValueError(
                f"objective {self.objective} weights differences from the group's mean, and advantage "
                f"{self.advantage} is something else; set advantage: dr_grpo or rloo"
            )
        return self


class ReplayConfig(Settings):
    """Training again on rollouts of earlier steps."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of a batch's groups that is replayed, as far as there are any; so many fewer are sampled."""
    method: ReplayMethod = "fifo"
    """`fifo` (DOTS), `least_replayed` (BufferStore), or `priority` (ours): what is drawn, what leaves."""
    capacity_groups: int = Field(default=512, ge=1)
    """Groups kept; the newest of each prompt."""
    max_age_steps: int | None = Field(default=None, ge=1)
    """Groups that are older leave; null: no limit."""
    max_replays: int | None = Field(default=None, ge=1)
    """Groups replayed so often leave; null: no limit."""
    priority_exponent: float = Field(default=1.0, ge=0)
    """`priority`: how sharply it prefers large advantages; 0: not at all."""
    priority_decay: float = Field(default=0.99, gt=0, le=1)
    """`priority`: what a step takes from a group's priority."""
    importance_cap: float | None = Field(default=None, gt=0)
    """Largest weight of a token that is now likelier than when it was sampled; null: none, as in DOTS."""


class EvaluationConfig(Settings):
    """Accuracy on prompts that are never trained on."""

    every: int = Field(default=10, ge=0)
    """Steps between evaluations; 0: only before and after."""
    prompts: int = Field(default=128, ge=0)
    """At most so many held-out prompts, the same every time; 0: no evaluation."""
    samples: int = Field(default=1, ge=1)
    """Completions per prompt."""
    pass_at: tuple[int, ...] = ()
    """The k of pass@k, unbiased from all samples; default: `samples` alone."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy, one sample says everything."""

    @model_validator(mode="after")
    def _samples_differ_and_suffice(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                "several samples at temperature 0 are all the same; set temperature or samples: 1"
            )
        if any(not 1 <= k <= self.samples for k in self.pass_at):
            raise ValueError(
                f"pass_at {self.pass_at}: every k must be between 1 and samples = {self.samples}"
            )
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """Every k to report, in order."""
        return tuple(sorted(set(self.pass_at))) or (self.samples,)


class MetricsConfig(Settings):
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = True
    """TensorBoard's events in the run's folder."""
    wandb_project: str = ""
    """Weights & Biases, where it is installed: the project; empty: not used."""
    wandb_arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `wandb.init`, for instance `mode: offline`."""


class CheckpointConfig(Settings):
    """What is kept to carry on from."""

    every: int = Field(default=20, ge=0)
    """Steps between checkpoints; 0: only at the end and when interrupted."""
    keep: int = Field(default=2, ge=1)
    """Older ones are removed."""


class TrainConfig(Settings):
    """A whole training run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder and, by default, the curriculum."""
    directory: Path = Path("runs")
    """Where the run's folder is made."""
    steps: int = Field(default=100, ge=1)
    """Batches to train on."""
    seed: int = Field(default=0, ge=0)
    """Of sampling and of the adapters' start."""
    sample_log: int = Field(default=2, ge=0)
    """Prompts per step of which a right and a wrong completion are written to samples.jsonl."""
    metrics: MetricsConfig = MetricsConfig()
    """Where metrics go besides metrics.jsonl."""
    model: ModelConfig = ModelConfig()
    """Which model."""
    lora: LoraConfig | None = LoraConfig()
    """null: all weights are trained."""
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    """Their prompts make one pool."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """The service and the size of a batch."""
    rollouts: RolloutConfig = RolloutConfig()
    """How completions are sampled."""
    rewards: RewardConfig = RewardConfig()
    """What the learner adds to the verdicts."""
    learner: LearnerConfig = LearnerConfig()
    """How rewards become an update."""
    replay: ReplayConfig = ReplayConfig()
    """Training again on rollouts of earlier steps."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """When and how the held-out prompts are tried."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is kept to carry on from."""

    @model_validator(mode="after")
    def _lookahead_fits(self) -> Self:
        if self.rollouts.lookahead and self.learner.gradient_norms:
            raise ValueError(
                "learner.gradient_norms: while the learner works nothing else can be measured by it; "
                "set rollouts.lookahead: 0, or leave the norms out"
            )
        if self.rollouts.lookahead and self.rollouts.sleep:
            raise ValueError(
                "rollouts.sleep: the engine never rests with rollouts.lookahead; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _vllm_fits(self) -> Self:
        if self.rollouts.engine != "vllm":
            return self
        if self.lora is None:
            raise ValueError("rollouts.engine vllm needs lora; use the transformers engine for full weights")
        longest = self.model.max_prompt_tokens + self.rollouts.max_tokens
        if longest > self.rollouts.max_model_tokens:
            raise ValueError(
                f"model.max_prompt_tokens + rollouts.max_tokens = {longest} exceeds "
                f"rollouts.max_model_tokens = {self.rollouts.max_model_tokens}; raise it, or lower one of them"
            )
        return self

    @property
    def recompute_log_probs(self) -> bool:
        """Whether the learner's own log-probs stand for the old policy's."""
        chosen = self.learner.recompute_log_probs
        return not self.engine_shares_model if chosen is None else chosen

    @property
    def engine_shares_model(self) -> bool:
        """Whether rollouts come from the very weights that are being trained."""
        return self.rollouts.engine == "transformers" and self.rollouts.lookahead == 0

    @property
    def run_directory(self) -> Path:
        """The run's folder."""
        return self.directory / self.name

    @property
    def curriculum_id(self) -> str:
        """The curriculum's id."""
        return self.curriculum.curriculum_id or self.name


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a YAML file and applies `a.b=c` overrides. Raises ConfigError naming file and field."""
    data = read_settings(path)
    for text in overrides:
        override(data, text)
    return parse_config(data, str(path))


def parse_config(data: Mapping[str, Any], source: str = "config") -> TrainConfig:
    """Validates settings. Raises ConfigError with one line per field that is wrong."""
    try:
        return TrainConfig.model_validate(data)
    except ValidationError as error:
        lines = described(TrainConfig, error.errors())
        raise ConfigError(
            f"{source}: {len(lines)} setting(s) wrong (`trainer-client settings` lists all)\n"
            + "\n".join(f"  {line}" for line in lines)
        ) from None
