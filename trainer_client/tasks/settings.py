"""Settings of tasks: where prompts come from and how completions are judged."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer_client.settings import Settings


class TableTaskConfig(Settings):
    """Prompts and answers from rows. A column `a.b` is the field `b` of the column `a`."""

    prompt_column: str = "prompt"
    """Where the prompt is: text, or a list of chat messages (role, content)."""
    answer_column: str = "answer"
    """Where the answer is: text or a number; anything else reaches the verifier as JSON."""
    answer_pattern: str | None = None
    """A regular expression; what its group matches in the answer column is the answer (`#### (.+)`)."""
    cluster_column: str | None = "cluster"
    """Where the cluster label is; rows without it have none."""
    id_column: str | None = "id"
    """Where the prompt's id is; rows without it get one from the prompt's text."""
    reference_pass_rate_column: str | None = None
    """Where a reference model's pass rate is, for the strategies that want one."""
    anchor_columns: tuple[str, str] | None = None
    """Where a weak and a strong model's pass rates are, for the strategies that want them."""
    verifier: str = "math"
    """`exact`, `math`, or `package.module:function`."""
    verifier_timeout_seconds: float = Field(default=5.0, gt=0)
    """A verdict that takes longer counts as the verifier's failure; its process is killed."""
    verifier_workers: int = Field(default=1, ge=1)
    """Processes that judge side by side."""
    template: str = "{prompt}"
    """What the model reads; `{prompt}` is replaced."""
    system_prompt: str = ""
    """For this task instead of `model.system_prompt`."""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts kept for evaluation, chosen by id."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""


class JsonlTaskConfig(TableTaskConfig):
    """Prompts and answers from a JSONL file."""

    type: Literal["jsonl"]
    """Always `jsonl`: says which kind of task the entry is."""
    path: Path
    """The file; one object a line."""
    held_out_path: Path | None = None
    """Another file whose prompts are held out, instead of a share."""


class ParquetTaskConfig(TableTaskConfig):
    """Prompts and answers from a Parquet file (extra `data`)."""

    type: Literal["parquet"]
    """Always `parquet`: says which kind of task the entry is."""
    path: Path
    """The file."""
    held_out_path: Path | None = None
    """Another file whose prompts are held out, instead of a share."""


class DatasetTaskConfig(TableTaskConfig):
    """Prompts and answers by the `datasets` library (extra `data`)."""

    type: Literal["dataset"]
    """Always `dataset`: says which kind of task the entry is."""
    path: str
    """A folder (saved by the library, or of data files), or a name on the hub."""
    configuration: str | None = None
    """The data set's configuration, where it has several."""
    split: str = "train"
    """Which rows; the library's slices such as `train[:1000]` work."""
    held_out_split: str | None = None
    """Another split whose prompts are held out, instead of a share."""


class ArithmeticTaskConfig(Settings):
    """Generated arithmetic."""

    type: Literal["arithmetic"]
    """Always `arithmetic`: says which kind of task the entry is."""
    kinds: tuple[str, ...] = Field(default=("add-1", "mul-1", "add-2", "mul-2"), min_length=1)
    """`operation-digits`: copy, next, max, add, sub, mul; 1 to 9 digits."""
    per_kind: int = Field(default=100, ge=1)
    """Prompts of each kind."""
    shots: int = Field(default=3, ge=0)
    """Worked examples before the question."""
    seed: int = 0
    """Which prompts."""
    held_out_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the prompts kept for evaluation, chosen by id."""


class ReasoningGymTaskConfig(Settings):
    """A generator of the reasoning-gym library."""

    type: Literal["reasoning_gym"]
    """Always `reasoning_gym`: says which kind of task the entry is."""
    dataset: str
    """The generator's name."""
    size: int = Field(default=100, ge=1)
    """Prompts to generate, of each level."""
    level: int | tuple[int, ...] | None = None
    """A step of the library's own curriculum for this generator, or several of them."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The generator's settings, over the level's."""
    label: str = ""
    """Cluster label; default the generator's name, with the level behind it."""
    shots: int = Field(default=2, ge=0)
    """Worked examples before the question."""
    stop: tuple[str, ...] = ("\n",)
    """Strings that end a completion; none for models that think first."""
    answer_tags: tuple[str, str] | None = None
    """Where the answer stands in a completion, for instance `[<answer>, </answer>]`; default: all of it."""
    seed: int = 0
    """Which prompts."""
    held_out_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the prompts kept for evaluation, chosen by id."""
    partial_credit: bool = False
    """Keep the library's scores between 0 and 1; else only a right answer is rewarded."""
    verifier_timeout_seconds: float = Field(default=5.0, gt=0)
    """A verdict that takes longer counts as the verifier's failure; its process is killed."""
    verifier_workers: int = Field(default=1, ge=1)
    """Processes that judge side by side."""

    @model_validator(mode="after")
    def _levels_are_steps(self) -> Self:
        levels = self.level if isinstance(self.level, tuple) else (self.level,)
        if not levels or any(level is not None and level < 0 for level in levels):
            raise ValueError(f"level must be a number from 0, or several, got {self.level}")
        return self


TaskConfig = Annotated[
    JsonlTaskConfig | ParquetTaskConfig | DatasetTaskConfig | ArithmeticTaskConfig | ReasoningGymTaskConfig,
    Field(discriminator="type"),
]
