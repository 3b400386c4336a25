"""TRL's `GRPOTrainer` under a curriculum (extra `trl`): which prompts, and what came of them.

```python
curriculum = TrlCurriculum(client, "math", prompts, args)
trainer = GRPOTrainer(
    model,
    reward_funcs=curriculum.reporting(is_correct),
    args=args,
    train_dataset=curriculum.dataset,
    callbacks=[curriculum],
)
```

What TRL fixes: every prompt of a batch gets `num_generations` completions, so quotas are equal and one round
is all there is; which prompts is what the curriculum decides. TRL loads a batch ahead: batch k is drawn before
the rewards of batch k - 1 are known.
"""

import functools
import hashlib
import inspect
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from trainer_client.client import Batch, CurriculumClient, RolloutStatus
from trainer_client.trainer_errors import ConfigError, DataError

# Beside TRL's own files in each of its checkpoints.
CHECKPOINT_FILE = "curriculum.json"
STEP_COLUMN = "curriculum_step"
ID_COLUMN = "curriculum_prompt_id"

RewardFunction = Callable[..., Sequence[float | None]]


class TrlCurriculum(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Draws what `GRPOTrainer` trains on, reports its rewards, and keeps checkpoints in step with its own.

    Every process makes one, with the same arguments; the first one adds the prompts and reports.

    Args:
        client: of this process.
        curriculum_id: made where there is none, with `strategy`.
        prompts: rows with a `prompt` column in any form that TRL takes, and whatever rewards need.
        args: the trainer's. Needs `shuffle_dataset=False`, `max_steps` and `dataloader_num_workers=0`.
        strategy: a preset's name, or a preset with parts over it.
        id_column: names the prompts; none: by a digest of the prompt.
        cluster_column: groups of prompts that are hard for like reasons.

    Raises:
        ConfigError: settings of `args` that would train on other prompts than those drawn.
        DataError: two prompts with one id, or fewer prompts than three batches.
    """

    def __init__(
        self,
        client: CurriculumClient,
        curriculum_id: str,
        prompts: datasets.Dataset,
        args: Any,
        *,
        strategy: str | Mapping[str, Any] = "frontier",
        id_column: str | None = None,
        cluster_column: str | None = None,
    ) -> None:
        _check(args)
        self.client = client
        self.curriculum_id = curriculum_id
        self.prompts = prompts
        self.group_size = int(args.num_generations)
        self.batch_size = int(args.generation_batch_size) // self.group_size
        ids = (
            [str(one) for one in prompts[id_column]] if id_column else [_digest(p) for p in prompts["prompt"]]
        )
        self._rows = {prompt_id: row for row, prompt_id in enumerate(ids)}
        if len(self._rows) < len(ids):
            twice = next(one for row, one in enumerate(ids) if self._rows[one] != row)
            raise DataError(f"prompts: {twice!r} comes twice; give an id_column that names every row apart")
        if len(ids) < 3 * self.batch_size:
            raise DataError(
                f"prompts: {len(ids)} are too few for batches of {self.batch_size}, of which TRL has up to three "
                "in flight; add prompts, or lower generation_batch_size"
            )
        if PartialState().is_main_process:
            client.create_curriculum(curriculum_id, strategy, exist_ok=True)
            clusters = [str(one) for one in prompts[cluster_column]] if cluster_column else None
            client.add_prompts(curriculum_id, ids, clusters=clusters)
        self._version = 0
        self._revision = ""
        self._batches: dict[int, Batch] = {}
        self._reported = -1
        # Of this process alone: one that starts anew must not be handed the batches of the one before it.
        self._run_id = str(_of_first(f"{curriculum_id}-{uuid.uuid4().hex[:12]}"))
        # Runs whose checkpoints are ours to forget: this one, and that which it goes on from.
        self._runs = {self._run_id}
        generations = args.max_steps * args.gradient_accumulation_steps
        batches = math.ceil(generations / (args.steps_per_generation * args.num_iterations))
        # One more, since a batch is loaded ahead.
        slots = {STEP_COLUMN: [step for step in range(batches + 1) for _ in range(self.batch_size)]}
        slots["place"] = list(range(self.batch_size)) * (batches + 1)
        self.dataset = datasets.Dataset.from_dict(slots).with_transform(self._fill)
        """What to train on: rows that are asked for at the service when TRL comes to them."""

    def __getstate__(self) -> dict[str, str]:
        # `datasets` hashes what a data set is transformed by. Connections cannot be pickled; this says enough.
        return {"run_id": self._run_id}

    def reporting(self, reward_function: RewardFunction) -> RewardFunction:
        """The same reward function, whose rewards are reported: a success is what exceeds the strategy's threshold.

        Wrap the one that says whether an answer is right. None is a failed verdict, and no outcome.
        """
        if inspect.iscoroutinefunction(reward_function):
            raise ConfigError(
                f"reward function {getattr(reward_function, '__name__', reward_function)!r} is async; "
                "report a plain function"
            )

        @functools.wraps(reward_function)
        def rewards(**columns: Any) -> Sequence[float | None]:
            values = reward_function(**columns)
            # Rows of an evaluation are not the curriculum's.
            if STEP_COLUMN in columns:
                self._report(columns, values)
            return values

        return rewards

    # -- called by transformers' Trainer ------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Takes the curriculum back to where the checkpoint was made that training goes on from."""
        self._version = int(state.global_step)
        if self._version and PartialState().is_main_process:
            kept = Path(args.output_dir) / f"checkpoint-{self._version}" / CHECKPOINT_FILE
            if kept.exists():
                checkpoint_id = _checkpoint_of(kept)
                self._runs.add(checkpoint_id.rpartition("-step-")[0])
                self._revision = self.client.restore_checkpoint(self.curriculum_id, checkpoint_id).revision
        self._revision = str(_of_first(self._revision))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The policy has moved."""
        self._version = int(state.global_step)
        if PartialState().is_main_process:
            self._revision = self.client.advance_policy(self.curriculum_id, self._version).revision

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the curriculum's state beside TRL's checkpoint, and forgets those of checkpoints that are gone."""
        if not PartialState().is_main_process:
            return
        output = Path(args.output_dir)
        checkpoint_id = f"{self._run_id}-step-{state.global_step}"
        self.client.create_checkpoint(self.curriculum_id, checkpoint_id)
        kept_beside = output / f"checkpoint-{state.global_step}" / CHECKPOINT_FILE
        kept_beside.write_text(json.dumps({"checkpoint_id": checkpoint_id}), encoding="utf-8")
        in_use = {_checkpoint_of(file) for file in output.glob(f"checkpoint-*/{CHECKPOINT_FILE}")}
        for kept in self.client.list_checkpoints(self.curriculum_id):
            mine = kept.checkpoint_id.rpartition("-step-")[0] in self._runs
            if mine and kept.checkpoint_id not in in_use:
                self.client.delete_checkpoint(self.curriculum_id, kept.checkpoint_id)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Gives back what was drawn ahead."""
        self.release()

    def release(self) -> None:
        """Gives back what was drawn and not trained on; without it those leases expire by themselves."""
        if PartialState().is_main_process:
            for step, batch in self._batches.items():
                if step > self._reported:
                    self.client.release(batch)
        self._batches.clear()

    # -- one batch ------------------------------------------------------------------------

    def _fill(self, slots: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        """The prompts of some slots: column by column, as a `datasets` transform gives them."""
        rows = []
        for step, place in zip(slots[STEP_COLUMN], slots["place"], strict=True):
            prompt_id = self._batch(step).prompt_ids[place]
            rows.append({**self.prompts[self._rows[prompt_id]], STEP_COLUMN: step, ID_COLUMN: prompt_id})
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _batch(self, step: int) -> Batch:
        """The step's batch: the same request on every process, so the same batch."""
        if step not in self._batches:
            batch = self.client.next_batch(
                self.curriculum_id,
                batch_size=self.batch_size,
                rollout_budget=self.batch_size * self.group_size,
                policy_version=self._version,
                equal_quotas=True,
                run_id=self._run_id,
                step=step,
                min_revision=self._revision,
            )
            known = [prompt_id in self._rows for prompt_id in batch.prompt_ids]
            if len(batch) != self.batch_size or not all(known):
                self.client.release(batch)
                raise DataError(
                    f"curriculum {self.curriculum_id!r}: {sum(known)} of the {self.batch_size} prompts of a batch "
                    f"can be trained on ({'; '.join(batch.notes) or 'the others are not in prompts'}); "
                    "TRL needs full batches of known prompts"
                )
            self._batches[step] = batch
        return self._batches[step]

    def _report(self, columns: Mapping[str, Any], values: Sequence[float | None]) -> None:
        lengths = [len(token_ids) for token_ids in columns["completion_ids"]]
        mine = list(zip(columns[STEP_COLUMN], columns[ID_COLUMN], map(_number, values), lengths, strict=True))
        # Groups may lie across processes: together they are whole.
        everything = gather_object(mine)
        self._reported = max(step for step, *_ in everything)
        # Rows are loaded again for every iteration over their generations; those before are done with.
        self._batches = {step: batch for step, batch in self._batches.items() if step >= self._reported}
        if not PartialState().is_main_process:
            return
        groups: dict[tuple[int, str], list[tuple[float, int]]] = {}
        for step, prompt_id, value, length in everything:
            groups.setdefault((step, prompt_id), []).append((value, length))
        for step in {step for step, _ in groups}:
            found = {prompt_id: group for (of, prompt_id), group in groups.items() if of == step}
            rewards = [[value for value, _ in group] for group in found.values()]
            failed = [
                [RolloutStatus.OK if math.isfinite(value) else RolloutStatus.ERROR for value in group]
                for group in rewards
            ]
            self.client.report(
                self._batches[step],
                list(found),
                rewards=rewards,
                statuses=failed,
                lengths=[[length for _, length in group] for group in found.values()],
                policy_version=self._version,
            )


def _check(args: Any) -> None:
    wanted = {"shuffle_dataset": False, "dataloader_num_workers": 0}
    for name, value in wanted.items():
        if getattr(args, name) != value:
            raise ConfigError(
                f"GRPOConfig.{name} is {getattr(args, name)!r}: the service decides what comes next, as it is asked; "
                f"set {name}={value!r}"
            )
    if args.max_steps <= 0:
        raise ConfigError(
            "GRPOConfig.max_steps is not set: a curriculum has no epochs; say how many steps to train"
        )


def _checkpoint_of(file: Path) -> str:
    """The curriculum's checkpoint that belongs to one of TRL's."""
    return str(json.loads(file.read_text(encoding="utf-8"))["checkpoint_id"])


def _of_first(value: object) -> object:
    """The first process's value, on all of them."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _digest(prompt: object) -> str:
    return hashlib.blake2b(json.dumps(prompt, sort_keys=True).encode(), digest_size=12).hexdigest()
