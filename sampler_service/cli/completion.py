"""What the shell offers on the tab key: ids that the service has, presets."""

from __future__ import annotations

import os
import shlex

import grpc

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.cli.connection import open_channel

__all__ = ["complete_curriculum", "complete_preset"]

_SECONDS = 1.0
"""A shell that waits longer feels broken."""


def complete_curriculum(incomplete: str) -> list[str]:
    """Ids of the service that `SAMPLER_TARGET` names; none when it does not answer at once.

    Shells put them on the command line as they are, so those that one would take apart, or run, are not offered.
    """
    try:
        with open_channel(os.environ.get("SAMPLER_TARGET", "127.0.0.1:50051")) as channel:
            request = pb.ListCurriculaRequest(page_size=200)
            answer = CurriculumServiceStub(channel).ListCurricula(request, timeout=_SECONDS)
    except (grpc.RpcError, OSError):
        return []
    ids = [one.curriculum_id for one in answer.curricula]
    return [name for name in ids if name.startswith(incomplete) and shlex.quote(name) == name]


def complete_preset(incomplete: str) -> list[str]:
    """Names of presets."""
    # Here, because it brings numpy, which no other command needs.
    from sampler_service.curriculum.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]
