"""Procedural arithmetic with graded difficulty, as short few-shot prompts that a base model can read.

A kind is `operation-digits`, for instance `add-2`; it is the prompt's cluster. Prompts look like
`14+3=17`, one worked line after the other, the last one left open; a completion ends with its line.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer_client.tasks.protocol import Pool, TaskPrompt, split_pool, stable_id
from trainer_client.tasks.verifiers import exact_match
from trainer_client.trainer_errors import ConfigError


def _same(a: int, b: int) -> int:
    del b
    return a


def _after(a: int, b: int) -> int:
    del b
    return a + 1


# operation -> (how it is written, what it gives)
OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "copy": ("{a}={a};{a}=", _same),
    "next": ("{a} then ", _after),
    "max": ("max({a},{b})=", max),
    "add": ("{a}+{b}=", lambda a, b: a + b),
    "sub": ("{a}-{b}=", lambda a, b: a - b),
    "mul": ("{a}*{b}=", lambda a, b: a * b),
}
# Their second number is not used, so questions differ by the first alone.
UNARY = frozenset({"copy", "next"})
MAX_DIGITS = 9


def arithmetic_pool(
    kinds: Sequence[str],
    per_kind: int = 100,
    *,
    shots: int = 3,
    seed: int = 0,
    held_out_share: float = 0.2,
) -> Pool:
    """Up to `per_kind` distinct prompts of each kind (fewer where there are no more), split by id."""
    prompts = [prompt for kind in kinds for prompt in _prompts(kind, per_kind, shots, seed)]
    return split_pool(prompts, held_out_share, stop=("\n",))


def parse_kind(kind: str) -> tuple[str, int]:
    """Operation and digits of a kind. Raises ConfigError naming what is wrong."""
    operation, _, digits = kind.partition("-")
    if operation not in OPERATIONS:
        raise ConfigError(f"arithmetic kind {kind!r}: unknown operation; use one of {sorted(OPERATIONS)}")
    if not digits.isdigit() or not 1 <= int(digits) <= MAX_DIGITS:
        raise ConfigError(
            f"arithmetic kind {kind!r}: digits must be 1 to {MAX_DIGITS}, as in '{operation}-2'"
        )
    return operation, int(digits)


def _prompts(kind: str, count: int, shots: int, seed: int) -> Iterator[TaskPrompt]:
    operation, digits = parse_kind(kind)
    written, compute = OPERATIONS[operation]
    rng = np.random.default_rng([seed, sorted(OPERATIONS).index(operation), digits])
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
    if operation in UNARY:
        numbers = low + rng.permutation(high - low)[: shots + count]
        pairs = [(number, 0) for number in numbers.tolist()]
    else:
        pairs = _distinct_pairs(rng, low, high, shots + count)
    preamble = "".join(f"{written.format(a=a, b=b)}{compute(a, b)}\n" for a, b in pairs[:shots])
    # The worked lines are not asked for: their answers would be read off, not computed.
    for a, b in pairs[shots:]:
        question, answer = written.format(a=a, b=b), str(compute(a, b))
        yield TaskPrompt(
            prompt_id=stable_id(kind, question),
            text=preamble + question,
            answer=answer,
            verifier=exact_match,
            cluster=kind,
            features={
                f"operation_{operation}": 1.0,
                "digits": float(digits),
                "answer_length": float(len(answer)),
                "log_answer": float(np.log1p(abs(int(answer)))),
                "carries": float(_carries(a, b)) if operation == "add" else 0.0,
                "shots": float(shots),
            },
        )


def _distinct_pairs(rng: np.random.Generator, low: int, high: int, count: int) -> list[tuple[int, int]]:
    """Up to `count` distinct pairs of [low, high)², in random order."""
    span = high - low
    if span * span <= 4 * count:
        flat = rng.permutation(span * span)[:count].tolist()
        return [(low + index // span, low + index % span) for index in flat]
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        a, b = rng.integers(low, high, size=2).tolist()
        found[(a, b)] = None
    return list(found)


def _carries(a: int, b: int) -> int:
    carries = carry = 0
    while a or b:
        carry = int(a % 10 + b % 10 + carry > 9)
        carries += carry
        a, b = a // 10, b // 10
    return carries
