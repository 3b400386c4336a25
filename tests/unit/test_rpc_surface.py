"""Every RPC of the proto is served: the generated base, which refuses all of them, is left to none."""

from __future__ import annotations

import pytest

from curriculum.v1 import curriculum_pb2, curriculum_pb2_grpc
from sampler_service.rpc.servicer import CurriculumServicer

RPCS = [m.name for m in curriculum_pb2.DESCRIPTOR.services_by_name["CurriculumService"].methods]


@pytest.mark.parametrize("name", RPCS)
def test_the_servicer_answers_the_rpc_itself(name: str) -> None:
    assert getattr(CurriculumServicer, name) is not getattr(
        curriculum_pb2_grpc.CurriculumServiceServicer, name
    )
