"""Tasks of the reasoning-gym library: procedural generators with verifiers and difficulty levels."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from trainer_client.tasks.protocol import Pool, TaskPrompt, VerifierError, split_pool, stable_id
from trainer_client.tasks.timed import TimedVerifier
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
    stop: tuple[str, ...] = ("\n",),
    answer_tags: tuple[str, str] | None = None,
    timeout_seconds: float | None = None,
    workers: int = 1,
) -> Pool:
    """Prompts of one generator, split by id.

    dataset: the generator's name. level: a step of the library's own curriculum for it, applied to
    every attribute that has levels. parameters: the generator's settings, over the level's.
    label: cluster label; default `dataset` or `dataset-level`. shots: worked examples before the question.
    partial_credit: keep the library's scores between 0 and 1. They are often .01 for an answer of the
    right form, which estimators that divide by the standard deviation blow up to a full advantage.
    answer_tags: what stands between the last two of them is judged; a completion without them is wrong.
    timeout_seconds: judge in processes of their own, which are killed past it. Some of the library's
    verifiers evaluate what the model wrote, `9**9**9**9` too. None: in this process, without a limit.

    Raises ConfigError when the generator, its level or a setting is unknown.
    """
    parameters = dict(parameters or {})
    try:
        source = _source(dataset, size + shots, seed, level, parameters)
        entries = [source[index] for index in range(size + shots)]
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"reasoning-gym task {dataset!r}, level {level}, parameters {parameters}: {error}; "
            "see the library's documentation of this generator"
        ) from error
    score = _scorer(
        source, json.dumps([dataset, size + shots, seed, level, parameters]), timeout_seconds, workers
    )
    cluster = label or (dataset if level is None else f"{dataset}-{level}")
    preamble = "".join(f"{entry['question'].strip()} {entry['answer']}\n" for entry in entries[:shots])
    prompts = []
    for index, entry in enumerate(entries[shots:], start=shots):
        question = entry["question"].strip()
        prompts.append(
            TaskPrompt(
                prompt_id=stable_id(cluster, question),
                # No space after the question: tokenizers put it in front of the answer's first word.
                text=preamble + question,
                answer=str(entry["answer"]),
                verifier=_EntryVerifier(score, index, partial_credit, answer_tags, workers),
                cluster=cluster,
                features={
                    f"generator_{dataset}": 1.0,
                    "question_length": len(question) / 100,
                    "answer_length": float(len(str(entry["answer"]))),
                    **_numeric_difficulty(entry["metadata"]),
                },
            )
        )
    return split_pool(prompts, held_out_share, stop)


class _EntryVerifier:
    """Judges answers to one entry. score: the library's score of an answer to the entry of an index."""

    def __init__(
        self,
        score: Callable[[str, int], float],
        index: int,
        partial_credit: bool,
        answer_tags: tuple[str, str] | None,
        workers: int,
    ) -> None:
        self._score = score
        self._index = index
        self._partial_credit = partial_credit
        self._answer_tags = answer_tags
        self.workers = workers

    def __call__(self, completion: str, answer: str) -> float:
        del answer  # The library's verifier knows its entry.
        said: str | None = completion
        if self._answer_tags is not None:
            said = between(completion, *self._answer_tags)
        if said is None:
            return 0.0
        score = self._score(said.strip(), self._index)
        return score if self._partial_credit else float(score > FULL_CREDIT)


def between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the last `opening` and the `closing` after it; None without them."""
    _, found, rest = text.rpartition(opening)
    inside, closed, _ = rest.partition(closing)
    return inside if found and closed else None


def score_entry(completion: str, answer: str) -> float:
    """The library's score; `answer` says which entry: `[dataset, size, seed, level, parameters]`, index.

    For worker processes, which make the entry anew: generators draw each entry from seed and index.
    """
    # First of all, so that a worker's first call, which is not timed, pays for the import.
    import reasoning_gym  # noqa: F401

    recipe, _, index = answer.rpartition("#")
    return _library_score(_remade(recipe), completion, int(index))


@functools.lru_cache(maxsize=64)
def _remade(recipe: str) -> Any:
    dataset, size, seed, level, parameters = json.loads(recipe)
    return _source(dataset, size, seed, level, parameters)


def _scorer(
    source: Any, recipe: str, timeout_seconds: float | None, workers: int
) -> Callable[[str, int], float]:
    if timeout_seconds is None:
        return lambda said, index: _library_score(source, said, index)
    timed = _shared_verifier(timeout_seconds, workers)
    return lambda said, index: timed(said, f"{recipe}#{index}")


@functools.lru_cache(maxsize=8)
def _shared_verifier(timeout_seconds: float, workers: int) -> TimedVerifier:
    # All generators share their workers: each costs the import of the library.
    return TimedVerifier(f"{__name__}:score_entry", timeout_seconds, workers=workers)


def _library_score(source: Any, said: str, index: int) -> float:
    try:
        return float(source.score_answer(answer=said, entry=source[index]))
    except Exception as error:
        raise VerifierError(f"reasoning-gym verifier raised {type(error).__name__}: {error}") from error


def _source(dataset: str, size: int, seed: int, level: int | None, parameters: Mapping[str, Any]) -> Any:
    import reasoning_gym

    settings = dict(_level_settings(dataset, level)) if level is not None else {}
    settings.update(parameters)
    return reasoning_gym.create_dataset(dataset, size=size, seed=seed, **settings)


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
