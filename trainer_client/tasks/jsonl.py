"""Prompts and answers from a JSONL file."""

import json
from pathlib import Path
from typing import Any

from trainer_client.tasks.protocol import Pool, TaskPrompt, Verifier, split_pool, stable_id
from trainer_client.trainer_errors import DataError

# So many bad rows are listed; more would hide the first.
MAX_LISTED = 10


def jsonl_pool(
    path: Path,
    verifier: Verifier,
    *,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    cluster_column: str | None = "cluster",
    id_column: str | None = "id",
    template: str = "{prompt}",
    held_out_share: float = 0.1,
    stop: tuple[str, ...] = (),
) -> Pool:
    """Reads the file; every row needs a prompt and an answer.

    template: what the model reads, with `{prompt}` in it. Raises DataError that lists the bad rows
    with their line numbers; nothing is skipped silently.
    """
    if "{prompt}" not in template:
        raise DataError(f"template {template!r}: must contain {{prompt}}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"data set {path}: {error.strerror}; give the path of a JSONL file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data set {path}: not UTF-8 (byte {error.start}); convert it") from error
    prompts: list[TaskPrompt] = []
    first_lines: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            prompt = _text(row, prompt_column)
            answer = _text(row, answer_column)
            cluster = (
                str(row[cluster_column]) if cluster_column and row.get(cluster_column) is not None else ""
            )
            given = row.get(id_column) if id_column else None
            prompt_id = str(given) if given is not None else stable_id(path.stem, prompt)
            if prompt_id in first_lines:
                raise ValueError(f"same id {prompt_id!r} as line {first_lines[prompt_id]}")
        except ValueError as error:
            problems.append(f"  line {number}: {error}")
            continue
        first_lines[prompt_id] = number
        prompts.append(
            TaskPrompt(
                prompt_id=prompt_id,
                text=template.replace("{prompt}", prompt),
                answer=answer,
                verifier=verifier,
                cluster=cluster,
                features={"prompt_length": len(prompt) / 100, "answer_length": float(len(answer))},
            )
        )
    if problems:
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DataError(
            f"data set {path}: {len(problems)} bad row(s); correct or remove them\n"
            + "\n".join(problems[:MAX_LISTED])
            + more
        )
    if not prompts:
        raise DataError(f"data set {path}: holds no rows")
    return split_pool(prompts, held_out_share, stop)


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    return row


def _text(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise ValueError(f"column {column!r} is missing; there are {sorted(row)}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"column {column!r} must be text or a number, got {type(value).__name__}")
    if not str(value).strip():
        raise ValueError(f"column {column!r} is empty")
    return str(value)
