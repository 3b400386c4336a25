"""What the SDK says of arguments that are of no use, and of a strategy that is not in force."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.strategy import resolve
from trainer_client.client._building import request_of
from trainer_client.client._strategy import strategy_message, warn_of_other_strategy
from trainer_client.exceptions import InvalidArgumentError


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("batch_size", 8.0, "float"),
        ("batch_size", "8", "str"),
        ("batch_size", 2**40, "out of range"),
        ("seed", -1, "out of range"),
        ("curriculum_id", 7, "int"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named_with_its_value(field: str, value: Any, why: str) -> None:
    fields: dict[str, Any] = {"curriculum_id": "math", "batch_size": 8, field: value}
    with pytest.raises(InvalidArgumentError) as refused:
        request_of(pb.NextBatchRequest, **fields)
    assert str(refused.value).startswith(f"{field}: is {value!r}")
    assert why in str(refused.value)
    assert [violation.field for violation in refused.value.details.field_violations] == [field]


PRESENT = ParseDict({**resolve("frontier", {}).dump(), "preset": "frontier"}, pb.Strategy())
"""As the service spells out a curriculum's strategy."""


@pytest.mark.parametrize(
    "asked",
    [
        None,
        "frontier",
        {"estimator": {"shared_evidence": "item_response"}},
        {"exploration": PRESENT.exploration},
        {"shadows": {"other": "cures"}},
    ],
)
def test_a_strategy_that_is_in_force_brings_no_warning(asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_other_strategy("math", strategy_message(asked), PRESENT)
    assert not caplog.records


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("cures", "strategy.preset is 'frontier', not 'cures'"),
        ({"exploration": 0.5}, "strategy.exploration is 0.1, not 0.5"),
        (
            {"estimator": {"shared_evidence": "cluster"}},
            "strategy.estimator.shared_evidence is item_response, not cluster",
        ),
        ({"quota": {"gvm": {}}}, "strategy.quota.gvm is not set"),
    ],
)
def test_a_strategy_that_is_not_in_force_is_warned_of_by_its_path(
    asked: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_other_strategy("math", strategy_message(asked), PRESENT)
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "'math' exists" in message
    assert said in message
