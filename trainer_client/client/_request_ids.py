"""Request ids: what makes a retry harmless.

The service remembers every id and answers a repeat with the first outcome, so an id is
fixed before the first attempt and never changes between attempts.
"""

from __future__ import annotations

import json
import uuid

from trainer_client.client._status import invalid

# A constant of this protocol; changing it would give resumed runs new batches for old steps.
_NAMESPACE = uuid.UUID("8f0f1c3e-5f0a-5a0e-9a54-6a2f3a5d7c11")


def new_request_id() -> str:
    """A fresh random id."""
    return str(uuid.uuid4())


def mutation_request_id(given: str | None, validate_only: bool) -> str:
    """The given id, or a fresh one; none for what only checks, so that a service that cannot refuses it."""
    return "" if validate_only else given or new_request_id()


def batch_request_id(curriculum_id: str, run_id: str | None, step: int | None) -> str:
    """The id of a step's batch: the same on every rank of a run, random when no step is named."""
    if run_id is None and step is None:
        return new_request_id()
    if run_id is None or step is None:
        missing, given = ("run_id", "step") if run_id is None else ("step", "run_id")
        raise invalid(missing, f"is missing; {given} was given and a shared batch needs both")
    if not run_id:
        raise invalid("run_id", "is empty; name the run, for instance by its output directory")
    return str(uuid.uuid5(_NAMESPACE, json.dumps(["next_batch", curriculum_id, run_id, int(step)])))
