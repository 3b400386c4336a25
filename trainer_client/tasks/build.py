"""From the task settings to one pool."""

from collections.abc import Sequence

from trainer_client.tasks.arithmetic import arithmetic_pool
from trainer_client.tasks.protocol import Pool, given_pool, merge_pools, split_pool
from trainer_client.tasks.reasoning_gym_task import reasoning_gym_pool
from trainer_client.tasks.row_sources import RowSource, dataset_rows, jsonl_rows, parquet_rows
from trainer_client.tasks.settings import (
    ArithmeticTaskConfig,
    DatasetTaskConfig,
    JsonlTaskConfig,
    ParquetTaskConfig,
    ReasoningGymTaskConfig,
    TableTaskConfig,
    TaskConfig,
)
from trainer_client.tasks.table import Columns, table_prompts
from trainer_client.tasks.timed import TimedVerifier


def build_pool(tasks: Sequence[TaskConfig]) -> Pool:
    """Builds every task and merges them. Raises DataError or ConfigError naming what is wrong."""
    return merge_pools([pool for task in tasks for pool in _build(task)])


def _build(task: TaskConfig) -> list[Pool]:
    if isinstance(task, ArithmeticTaskConfig):
        return [
            arithmetic_pool(
                task.kinds,
                task.per_kind,
                shots=task.shots,
                seed=task.seed,
                held_out_share=task.held_out_share,
            )
        ]
    if isinstance(task, ReasoningGymTaskConfig):
        levels = task.level if isinstance(task.level, tuple) else (task.level,)
        return [_reasoning_gym(task, level, several=len(levels) > 1) for level in levels]
    return [_table(task)]


def _table(task: JsonlTaskConfig | ParquetTaskConfig | DatasetTaskConfig) -> Pool:
    verifier = TimedVerifier(task.verifier, task.verifier_timeout_seconds, workers=task.verifier_workers)
    source, held_out_source = _sources(task)
    columns = _columns(task)
    tables = [
        table_prompts(
            rows,
            verifier,
            columns,
            template=task.template,
            answer_pattern=task.answer_pattern,
            system_prompt=task.system_prompt,
        )
        for rows in (source, held_out_source)
        if rows is not None
    ]
    if len(tables) == 2:
        return given_pool(tables[0], tables[1], task.stop)
    return split_pool(tables[0], task.held_out_share, task.stop)


def _sources(
    task: JsonlTaskConfig | ParquetTaskConfig | DatasetTaskConfig,
) -> tuple[RowSource, RowSource | None]:
    """Where the rows to train on are, and those held out where they are given apart."""
    if isinstance(task, DatasetTaskConfig):
        return dataset_rows(task.path, task.configuration, task.split), (
            dataset_rows(task.path, task.configuration, task.held_out_split) if task.held_out_split else None
        )
    read = jsonl_rows if isinstance(task, JsonlTaskConfig) else parquet_rows
    return read(task.path), read(task.held_out_path) if task.held_out_path else None


def _columns(task: TableTaskConfig) -> Columns:
    return Columns(
        task.prompt_column,
        task.answer_column,
        task.cluster_column,
        task.id_column,
        task.reference_pass_rate_column,
        task.anchor_columns,
    )


def _reasoning_gym(task: ReasoningGymTaskConfig, level: int | None, *, several: bool) -> Pool:
    return reasoning_gym_pool(
        task.dataset,
        task.size,
        level=level,
        parameters=task.parameters,
        label=f"{task.label}-{level}" if task.label and several else task.label,
        shots=task.shots,
        seed=task.seed,
        held_out_share=task.held_out_share,
        partial_credit=task.partial_credit,
        stop=task.stop,
        answer_tags=task.answer_tags,
        timeout_seconds=task.verifier_timeout_seconds,
        workers=task.verifier_workers,
    )
