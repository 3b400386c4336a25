"""Prompts and answers from the rows of a table."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_client.tasks.protocol import Message, TaskPrompt, Verifier, stable_id
from trainer_client.tasks.row_sources import Row, RowSource
from trainer_client.trainer_errors import ConfigError, DataError

# So many bad rows are listed; more would hide the first.
MAX_LISTED = 10
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None: the table has no such column. `a.b`: the field b of column a.

    A name other than the default must be in some row: it would else be a silent slip of the pen.
    """

    prompt: str = "prompt"
    answer: str = "answer"
    cluster: str | None = "cluster"
    id: str | None = "id"
    reference_pass_rate: str | None = None
    anchors: tuple[str, str] | None = None


def table_prompts(
    source: RowSource,
    verifier: Verifier,
    columns: Columns | None = None,
    *,
    template: str = "{prompt}",
    answer_pattern: str | None = None,
    system_prompt: str = "",
) -> list[TaskPrompt]:
    """Prompts of a table, in its order; every row needs a prompt and an answer.

    template: what the model reads, with `{prompt}` in it; messages are left as they are.
    answer_pattern: a regular expression with one group, found in the answer column.
    Raises DataError that lists the bad rows with their places; nothing is skipped silently.
    """
    columns = columns or Columns()
    if "{prompt}" not in template:
        raise DataError(f"template {template!r}: must contain {{prompt}}")
    pattern = _compiled(answer_pattern)
    prompts: list[TaskPrompt] = []
    places: dict[str, str] = {}
    problems: list[str] = []
    unseen = {name: kind for kind, name in _named_columns(columns)}
    for place, row in source.read():
        try:
            if isinstance(row, ValueError):
                raise row
            for name in [name for name in unseen if _value(row, name) is not None]:
                del unseen[name]
            prompt = _prompt(source, row, columns, verifier, template, pattern, system_prompt)
            if prompt.prompt_id in places:
                raise ValueError(f"same id {prompt.prompt_id!r} as {places[prompt.prompt_id]}")
        except ValueError as error:
            problems.append(f"  {place}: {error}")
            continue
        places[prompt.prompt_id] = place
        prompts.append(prompt)
    if problems:
        more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DataError(
            f"data set {source.name}: {len(problems)} bad row(s); correct or remove them\n"
            + "\n".join(problems[:MAX_LISTED])
            + more
        )
    if not prompts:
        raise DataError(f"data set {source.name}: holds no rows")
    for name, kind in unseen.items():
        raise DataError(f"data set {source.name}: {kind} {name!r} is in no row; correct its name")
    return prompts


def _named_columns(columns: Columns) -> Iterator[tuple[str, str]]:
    defaults = Columns()
    for kind in ("cluster", "id", "reference_pass_rate"):
        name = getattr(columns, kind)
        if name is not None and name != getattr(defaults, kind):
            yield f"{kind}_column", name
    for name in columns.anchors or ():
        yield "anchor_columns", name


def _prompt(
    source: RowSource,
    row: Row,
    columns: Columns,
    verifier: Verifier,
    template: str,
    pattern: re.Pattern[str] | None,
    system_prompt: str,
) -> TaskPrompt:
    messages = _messages(_value(row, columns.prompt), columns.prompt)
    if messages:
        text = messages[-1][1]
        identity = json.dumps(messages)
    else:
        identity = _text(row, columns.prompt)
        text = template.replace("{prompt}", identity)
    answer = _answer(row, columns.answer, pattern)
    cluster = _value(row, columns.cluster)
    given = _value(row, columns.id)
    weak, strong = columns.anchors or (None, None)
    anchors = (_rate(row, weak), _rate(row, strong))
    return TaskPrompt(
        prompt_id=str(given) if given is not None else stable_id(source.prefix, identity),
        text=text,
        answer=answer,
        verifier=verifier,
        cluster="" if cluster is None else str(cluster),
        features={"prompt_length": len(identity) / 100, "answer_length": float(len(answer))},
        messages=messages,
        system_prompt=system_prompt,
        reference_pass_rate=_rate(row, columns.reference_pass_rate),
        anchor_pass_rates=None if anchors[0] is None or anchors[1] is None else (anchors[0], anchors[1]),
    )


def _value(row: Row, column: str | None) -> Any:
    """The column's value; a name with a dot that is no column itself leads into a nested one."""
    if column is None or column in row:
        return row.get(column) if column else None
    head, _, rest = column.partition(".")
    inner = row.get(head) if rest else None
    return _value(inner, rest) if isinstance(inner, Mapping) else None


def _text(row: Row, column: str) -> str:
    value = _present(row, column)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"column {column!r} must be text or a number, got {type(value).__name__}")
    if not str(value).strip():
        raise ValueError(f"column {column!r} is empty")
    return str(value)


def _answer(row: Row, column: str, pattern: re.Pattern[str] | None) -> str:
    value = _present(row, column)
    if isinstance(value, list | dict):
        # Test cases and the like: for a verifier of the user's own.
        return json.dumps(value)
    text = _text(row, column)
    if pattern is None:
        return text
    found = pattern.search(text)
    if not found:
        raise ValueError(f"column {column!r} does not hold answer_pattern {pattern.pattern!r}: {text[:60]!r}")
    return found.group(1).strip()


def _present(row: Row, column: str) -> Any:
    value = _value(row, column)
    # Data frames write what is missing as NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"column {column!r} is missing; there are {sorted(row)}")
    return value


def _rate(row: Row, column: str | None) -> float | None:
    value = _value(row, column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"column {column!r} must be a pass rate between 0 and 1, got {value!r}")
    return float(value)


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return ()
    messages = []
    for part in value:
        fits = isinstance(part, Mapping) and isinstance(part.get("content"), str)
        if not fits or part.get("role") not in ROLES:
            raise ValueError(
                f"column {column!r} must be text, or messages with a role of {ROLES} and content"
            )
        messages.append((str(part["role"]), str(part["content"])))
    if messages[-1][0] != "user":
        raise ValueError(f"column {column!r}: the last message must be the user's, not {messages[-1][0]!r}")
    return tuple(messages)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"answer_pattern {pattern!r}: not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ConfigError(f"answer_pattern {pattern!r}: must have one group, has {compiled.groups}")
    return compiled
