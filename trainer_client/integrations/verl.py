"""verl's trainer under a curriculum: a sampler by its `AbstractCurriculumSampler` hook (verl up to 0.7).

```yaml
data:
  train_batch_size: 64
  dataloader_num_workers: 0
  sampler:
    class_path: pkg://trainer_client.integrations.verl
    class_name: CurriculumSampler
    target: 127.0.0.1:50051
    curriculum_id: math
    rollouts_per_prompt: 8   # what actor_rollout_ref.rollout.n is
```

Prompts are named by their `extra_info.index`, which verl's own data preparation writes. Every prompt of a batch
gets `rollouts_per_prompt` rollouts, so quotas are equal and one round is all there is.
"""

import uuid
from collections.abc import Iterator
from typing import Any

from verl.experimental.dataset.sampler import AbstractCurriculumSampler

from trainer_client.client import Batch, CurriculumClient
from trainer_client.trainer_errors import ConfigError, DataError


class CurriculumSampler(AbstractCurriculumSampler):  # type: ignore[misc]
    """Yields the rows that the service draws, a batch at a time, and reports what became of them.

    Args:
        data_source: verl's `RLHFDataset`; rows with `extra_info.index`.
        data_config: verl's `data` settings; `sampler` has ours.

    Raises:
        ConfigError: a setting is missing.
        DataError: a row without an index, or two with one.
    """

    def __init__(self, data_source: Any, data_config: Any) -> None:
        settings = data_config.sampler
        for name in ("target", "curriculum_id", "rollouts_per_prompt"):
            if settings.get(name) is None:
                raise ConfigError(f"data.sampler.{name} is not set; see trainer_client.integrations.verl")
        self.curriculum_id = str(settings.curriculum_id)
        self._batch_size = int(data_config.train_batch_size)
        self._rollouts = int(settings.rollouts_per_prompt)
        self._length = len(data_source)
        self._rows: dict[str, int] = {}
        for row, extra in enumerate(data_source.dataframe["extra_info"]):
            index = (extra or {}).get("index")
            if index is None or str(index) in self._rows:
                raise DataError(f"row {row}: extra_info.index = {index!r} must be there, and in no other row")
            self._rows[str(index)] = row
        self.client = CurriculumClient(str(settings.target))
        self.client.create_curriculum(
            self.curriculum_id, settings.get("strategy") or "frontier", exist_ok=True
        )
        self.client.add_prompts(self.curriculum_id, list(self._rows))
        self._run_id = f"{self.curriculum_id}-{uuid.uuid4().hex[:12]}"
        self._step = 0
        self._version = self.client.get_curriculum(self.curriculum_id).policy_version
        self._batch: Batch | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        """As many rows as an epoch has, in whole batches, each drawn when verl comes to it."""
        for _ in range(self._length // self._batch_size):
            batch = self.client.next_batch(
                self.curriculum_id,
                batch_size=self._batch_size,
                rollout_budget=self._batch_size * self._rollouts,
                policy_version=self._version,
                equal_quotas=True,
                run_id=self._run_id,
                step=self._step,
            )
            if len(batch) < self._batch_size:
                self.client.release(batch)
                raise DataError(f"curriculum {self.curriculum_id!r}: {'; '.join(batch.notes)}")
            self._batch, self._step = batch, self._step + 1
            yield from (self._rows[prompt_id] for prompt_id in batch.prompt_ids)

    def update(self, batch: Any) -> None:
        """Reports a step's rewards; verl calls it with the `DataProto` that was trained on."""
        scores = batch.batch["token_level_scores"].sum(dim=-1).tolist()
        lengths = batch.batch["response_mask"].sum(dim=-1).tolist()
        groups: dict[str, list[tuple[float, float]]] = {}
        for extra, score, length in zip(batch.non_tensor_batch["extra_info"], scores, lengths, strict=True):
            groups.setdefault(str(extra["index"]), []).append((score, length))
        self.client.report(
            self._batch,
            list(groups),
            rewards=[[score for score, _ in group] for group in groups.values()],
            lengths=[[length for _, length in group] for group in groups.values()],
        )
        self._version += 1
        self.client.advance_policy(self.curriculum_id, self._version)
