"""Verifiers: exact match, mathematical equality, and any function of the user's with a time limit."""

import importlib
from typing import Any

from trainer_client.tasks.protocol import Verifier, VerifierError
from trainer_client.trainer_errors import ConfigError


def exact_match(completion: str, answer: str) -> float:
    """1 if the first line says the answer and nothing else, else 0."""
    line = completion.strip().split("\n", 1)[0].strip()
    return float(line == answer.strip())


def math_equal(completion: str, answer: str) -> float:
    """1 if math-verify reads the completion's last expression as equal to the answer, else 0.

    The library's own time limits need the main thread's alarm and are off: wrap this in
    `trainer_client.tasks.timed.TimedVerifier` where completions may hold anything.
    """
    from math_verify import parse, verify

    gold = parse(_as_latex(answer), parsing_timeout=None)
    if not gold:
        return exact_match(completion, answer)
    found = parse(completion, parsing_timeout=None)
    return float(bool(found) and bool(verify(gold, found, timeout_seconds=None)))


def _as_latex(answer: str) -> str:
    # The parser looks for delimited LaTeX or plain numbers; a bare "\frac{1}{2}" needs delimiters.
    return answer if "$" in answer or "\\boxed" in answer else f"${answer}$"


BUILT_IN: dict[str, Verifier] = {"exact": exact_match, "math": math_equal}


def load_verifier(name: str) -> Verifier:
    """A verifier by name (`exact`, `math`) or as `package.module:function`.

    Raises ConfigError when there is none of that name.
    """
    module_name, separator, function_name = name.partition(":")
    if name in BUILT_IN:
        function: Any = BUILT_IN[name]
    elif not separator:
        raise ConfigError(
            f"verifier {name!r}: unknown; use one of {sorted(BUILT_IN)} or 'package.module:function'"
        )
    else:
        function = _imported(name, module_name, function_name)

    if not callable(function):
        raise ConfigError(f"verifier {name!r}: is no function but a {type(function).__name__}")

    def call(completion: str, answer: str) -> float:
        try:
            return float(function(completion, answer))
        # Scripts made into verifiers end by `sys.exit`.
        except (Exception, SystemExit) as error:
            raise VerifierError(f"verifier {name!r} raised {type(error).__name__}: {error}") from error

    return call


def _imported(name: str, module_name: str, function_name: str) -> Any:
    try:
        return getattr(importlib.import_module(module_name), function_name)
    # Whatever the module does when it is imported.
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"verifier {name!r}: {type(error).__name__}: {error}; check the module's and the function's name"
        ) from error
