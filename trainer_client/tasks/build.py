"""From the task settings to one pool."""

from collections.abc import Sequence

from trainer_client.config import ArithmeticTaskConfig, JsonlTaskConfig, TaskConfig
from trainer_client.tasks.arithmetic import arithmetic_pool
from trainer_client.tasks.jsonl import jsonl_pool
from trainer_client.tasks.protocol import Pool, merge_pools
from trainer_client.tasks.reasoning_gym_task import reasoning_gym_pool
from trainer_client.tasks.timed import TimedVerifier


def build_pool(tasks: Sequence[TaskConfig]) -> Pool:
    """Builds every task and merges them. Raises DataError or ConfigError naming what is wrong."""
    return merge_pools([_build(task) for task in tasks])


def _build(task: TaskConfig) -> Pool:
    if isinstance(task, JsonlTaskConfig):
        return jsonl_pool(
            task.path,
            TimedVerifier(task.verifier, task.verifier_timeout_seconds),
            prompt_column=task.prompt_column,
            answer_column=task.answer_column,
            cluster_column=task.cluster_column,
            id_column=task.id_column,
            template=task.template,
            held_out_share=task.held_out_share,
            stop=task.stop,
        )
    if isinstance(task, ArithmeticTaskConfig):
        return arithmetic_pool(
            task.kinds,
            task.per_kind,
            shots=task.shots,
            seed=task.seed,
            held_out_share=task.held_out_share,
        )
    return reasoning_gym_pool(
        task.dataset,
        task.size,
        level=task.level,
        parameters=task.parameters,
        label=task.label,
        shots=task.shots,
        seed=task.seed,
        held_out_share=task.held_out_share,
        partial_credit=task.partial_credit,
    )
