"""Tasks of the reasoning-gym library: procedural generators with verifiers and difficulty levels."""

import functools
from collections.abc import Mapping
from typing import Any

from trainer_client.tasks.protocol import Pool, TaskPrompt, VerifierError, split_pool, stable_id
from trainer_client.trainer_errors import ConfigError

# Scores are 1 up to rounding for a right answer.
FULL_CREDIT = 0.999


def reasoning_gym_pool(
    dataset: str,
    size: int = 100,
    *,
    level: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    label: str = "",
    shots: int = 2,
    seed: int = 0,
    held_out_share: float = 0.2,
    partial_credit: bool = False,
) -> Pool:
    """Prompts of one generator, split by id; a completion ends with its line.

    dataset: the generator's name. level: a step of the library's own curriculum for it, applied to
    every attribute that has levels. parameters: the generator's settings, over the level's.
    label: cluster label; default `dataset` or `dataset-level`. shots: worked examples before the question.
    partial_credit: keep the library's scores between 0 and 1. They are often .01 for an answer of the
    right form, which estimators that divide by the standard deviation blow up to a full advantage.

    Raises ConfigError when the generator, its level or a setting is unknown.
    """
    import reasoning_gym

    settings = dict(_level_settings(dataset, level)) if level is not None else {}
    settings.update(parameters or {})
    try:
        source = reasoning_gym.create_dataset(dataset, size=size + shots, seed=seed, **settings)
        entries = [source[index] for index in range(size + shots)]
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"reasoning-gym task {dataset!r}, settings {settings}: {error}; "
            "see the library's documentation of this generator"
        ) from error
    cluster = label or (dataset if level is None else f"{dataset}-{level}")
    preamble = "".join(f"{entry['question'].strip()} {entry['answer']}\n" for entry in entries[:shots])
    prompts = []
    for entry in entries[shots:]:
        question = entry["question"].strip()
        prompts.append(
            TaskPrompt(
                prompt_id=stable_id(cluster, question),
                # No space after the question: tokenizers put it in front of the answer's first word.
                text=preamble + question,
                answer=str(entry["answer"]),
                verifier=functools.partial(_score, source, entry, partial_credit),
                cluster=cluster,
                features={
                    f"generator_{dataset}": 1.0,
                    "question_length": len(question) / 100,
                    "answer_length": float(len(str(entry["answer"]))),
                    **_numeric_difficulty(entry["metadata"]),
                },
            )
        )
    return split_pool(prompts, held_out_share, stop=("\n",))


def _score(
    source: Any, entry: Mapping[str, Any], partial_credit: bool, completion: str, answer: str
) -> float:
    del answer  # The library's verifier knows its entry.
    try:
        score = float(source.score_answer(answer=completion.strip(), entry=entry))
    except Exception as error:
        raise VerifierError(f"reasoning-gym verifier raised {type(error).__name__}: {error}") from error
    return score if partial_credit else float(score > FULL_CREDIT)


def _level_settings(dataset: str, level: int) -> Mapping[str, Any]:
    from reasoning_gym.factory import create_curriculum

    try:
        curriculum = create_curriculum(dataset)
        for name, attribute in curriculum.attributes.items():
            curriculum.set_attr_level(name, min(level, len(attribute.levels) - 1))
        settings = dict(vars(curriculum.generate_configuration()))
    except (ValueError, KeyError) as error:
        raise ConfigError(f"reasoning-gym task {dataset!r}, level {level}: {error}") from error
    settings.pop("size", None)
    settings.pop("seed", None)
    return settings


def _numeric_difficulty(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The upper ends of the generator's own difficulty settings."""
    numbers: dict[str, float] = {}
    for name, value in (metadata.get("difficulty") or {}).items():
        top = value[-1] if isinstance(value, list | tuple) and value else value
        if isinstance(top, int | float) and not isinstance(top, bool):
            numbers[f"difficulty_{name}"] = float(top)
    return numbers
