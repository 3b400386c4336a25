"""A second model beside the learner's, on the same frozen weights."""

import copy
from typing import Any


def second_model(model: Any) -> Any:
    """A model that holds still while `model` learns: weights that are trained are copied, frozen ones shared.

    With adapters the two have the base model in common, and only the adapters twice; with all weights trained
    it is a whole copy. Its modules are its own, so both may be read at once from two threads.
    """
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
