"""Objectives that are not the pass rate p itself but a function f of it.

∇ f(p) = f'(p) ∇ p: a prompt's advantages are weighted by f'(p), with p the success share of its own group. A group
without a success has no gradient, so 1/p never meets p = 0.

| objective | f(p)        | f'(p)          |                                                                   |
|-----------|-------------|----------------|-------------------------------------------------------------------|
| `linear`  | p           | 1              | what `dr_grpo` and `rloo` maximise                                |
| `log`     | log p       | 1/p            | maximum likelihood: rare successes count most                     |
| `power`   | p^a / a     | p^(a-1)        | between the two for a between 0 and 1                             |
| `arcsin`  | 2 asin √p   | 1/√(p(1-p))    | what dividing by the standard deviation, as `grpo` does, maximises |

The quota `objective` shares rollouts out for the same functions.
"""

import math
from typing import Literal

Objective = Literal["linear", "log", "power", "arcsin"]


def objective_weight(objective: Objective, success_share: float, exponent: float = 0.5) -> float:
    """f'(p); 1 where the group is all right or all wrong, and its advantages are 0 anyway.

    Raises ValueError for an unknown objective.
    """
    if not 0 < success_share < 1 or objective == "linear":
        return 1.0
    if objective == "log":
        return 1 / success_share
    if objective == "power":
        return float(success_share ** (exponent - 1))
    if objective == "arcsin":
        return 1 / math.sqrt(success_share * (1 - success_share))
    raise ValueError(f"objective {objective!r}: unknown; use one of {Objective.__args__}")
