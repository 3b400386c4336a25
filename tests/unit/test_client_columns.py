"""From what a trainer holds to what travels: rewards, strategies, prompts, targets, request ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client import Health, Report, RolloutStatus, Tls
from trainer_client.client._channel import Endpoint
from trainer_client.client._health import health_request, parse_health
from trainer_client.client._prompts import MAX_CHUNK_BYTES, MAX_CHUNK_PROMPTS, PromptColumns
from trainer_client.client._request_ids import batch_request_id
from trainer_client.client._rollouts import flat_rewards, flat_side_column, flat_statuses
from trainer_client.client._strategy import strategy_message
from trainer_client.exceptions import InvalidArgumentError

REWARD = st.floats(width=32, allow_nan=False)
GROUPS = st.lists(st.lists(REWARD, max_size=5), max_size=8)


@given(GROUPS)
def test_grouped_and_flat_rewards_mean_the_same(groups):
    flat, counts = flat_rewards(len(groups), groups, None)
    assert counts == [len(group) for group in groups]
    assert flat == [reward for group in groups for reward in group]
    assert flat_rewards(len(groups), flat, counts) == (flat, counts)
    assert flat_rewards(len(groups), np.array(flat, dtype=np.float64), counts) == (flat, counts)
    assert flat_rewards(len(groups), [np.array(group) for group in groups], None) == (flat, counts)


@given(st.integers(0, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_an_array_of_groups_is_read_row_by_row(prompts, size, random):
    rewards_P_G = np.array([[random.random() for _ in range(size)] for _ in range(prompts)]).reshape(
        prompts, size
    )
    flat, counts = flat_rewards(prompts, rewards_P_G, None)
    assert flat == rewards_P_G.ravel().tolist()
    assert counts == [size] * prompts
    assert flat_side_column("lengths", rewards_P_G, counts) == (flat if prompts else [])


@given(GROUPS, st.integers(-3, 3).filter(bool))
def test_counts_that_do_not_add_up_are_refused(groups, surplus):
    flat, counts = flat_rewards(len(groups), groups, None)
    if not counts or counts[0] + surplus < 0:
        return
    wrong = [counts[0] + surplus, *counts[1:]]
    with pytest.raises(InvalidArgumentError, match="rewards"):
        flat_rewards(len(groups), flat, wrong)


@pytest.mark.parametrize(
    ("arguments", "field", "remedy"),
    [
        ({"rewards": [1.0, 0.0]}, r"rewards[0]", "rollout_counts"),
        ({"rewards": [[1.0]]}, "rewards", "one sequence per prompt"),
        ({"rewards": [[1.0], ["x"]]}, "rewards[1]", "numbers"),
        ({"rewards": [1.0, 0.0], "rollout_counts": [1]}, "rollout_counts", "2 prompts"),
        ({"rewards": [[1.0], [0.0]], "statuses": ["ok", "lost"]}, "statuses[1]", "truncated"),
        ({"rewards": [[1.0], [0.0]], "lengths": [[3, 4], [5]]}, "lengths[0]", "2 entries for 1"),
        ({"rewards": [[1.0], [0.0]], "policy_version": None}, "policy_version", "missing"),
        ({"rewards": [[1.0], [0.0]], "curriculum_id": None}, "curriculum_id", "missing"),
        ({"rewards": [[1.0], [0.0]], "prompt_ids": "ab"}, "prompt_ids", "single string"),
    ],
)
def test_a_report_that_does_not_fit_names_the_column_and_the_remedy(arguments, field, remedy):
    columns = {"prompt_ids": ["a", "b"], "curriculum_id": "c", "policy_version": 1, **arguments}
    with pytest.raises(InvalidArgumentError) as caught:
        Report(None, **columns).message()
    assert caught.value.field_violations[0].field == field
    assert remedy in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_statuses_come_as_names_members_or_numbers_flat_or_grouped():
    expected = [RolloutStatus.OK, RolloutStatus.TRUNCATED, RolloutStatus.ERROR]
    assert flat_statuses(["ok", RolloutStatus.TRUNCATED, 2], [1, 2]) == expected
    assert flat_statuses([["ok"], ["truncated", "ERROR"]], [1, 2]) == expected
    assert flat_statuses(np.array([1, 3, 2]), [1, 2]) == expected


def test_a_strategy_is_a_name_a_mapping_or_a_message():
    assert strategy_message("dapo") == pb.Strategy(preset="dapo")
    assert strategy_message(None) == pb.Strategy()
    built = strategy_message(
        {
            "preset": "cures",
            "proposal": {"cures": {"temperature": np.float64(0.25), "range": (0, 1)}},
            "exploration": 0.1,
            "lease_seconds": None,
        }
    )
    assert built.proposal["cures"]["temperature"] == 0.25
    assert list(built.proposal["cures"]["range"]) == [0, 1]
    assert built.exploration == 0.1
    assert not built.HasField("lease_seconds")
    assert strategy_message(built) is built


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        ({"propsal": {"cures": {}}}, "strategy.propsal"),
        ({"exploration": "much"}, "strategy.exploration"),
        ({"quota": 3}, "strategy.quota"),
        ({"proposal": {"cures": {"temperature": object()}}}, "strategy.proposal"),
    ],
)
def test_a_strategy_that_does_not_fit_names_its_field(mapping, field):
    with pytest.raises(InvalidArgumentError) as caught:
        strategy_message(mapping)
    assert caught.value.field_violations[0].field == field


@given(
    st.lists(st.text(min_size=1, max_size=30), max_size=40),
    st.integers(0, 200_000),
)
def test_chunks_hold_every_prompt_once_and_fit(ids, dimensions):
    dimensions = dimensions if ids else 0
    embeddings = np.zeros((len(ids), dimensions), dtype=np.float32) if dimensions else None
    columns = PromptColumns.make(ids, None, [None] * len(ids), None, embeddings)
    chunks = list(columns.chunks("c", "r"))
    assert [prompt for chunk in chunks for prompt in chunk.prompt_ids] == ids
    assert all(chunk.ByteSize() <= MAX_CHUNK_BYTES or len(chunk.prompt_ids) == 1 for chunk in chunks)
    assert chunks[0].curriculum_id == "c"
    assert all(np.isnan(chunk.reference_pass_rates).all() for chunk in chunks)


def test_a_chunk_has_at_most_8192_prompts():
    columns = PromptColumns.make((str(i) for i in range(20_000)), None, None, None, None)
    assert [len(chunk.prompt_ids) for chunk in columns.chunks("c", "r")] == [
        MAX_CHUNK_PROMPTS,
        MAX_CHUNK_PROMPTS,
        20_000 - 2 * MAX_CHUNK_PROMPTS,
    ]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"prompt_ids": "abc"}, "prompt_ids"),
        ({"prompt_ids": ["a", 3]}, "prompt_ids[1]"),
        ({"clusters": ["x"]}, "clusters"),
        ({"reference_pass_rates": [0.5]}, "reference_pass_rates"),
        ({"anchor_pass_rates": [[0.5], [0.5]]}, "anchor_pass_rates"),
        ({"embeddings": np.zeros(2)}, "embeddings"),
        ({"embeddings": [["a"], ["b"]]}, "embeddings"),
    ],
)
def test_prompt_columns_that_do_not_fit_name_the_column(columns, field):
    given_columns = {
        "prompt_ids": ["a", "b"],
        "clusters": None,
        "reference_pass_rates": None,
        "anchor_pass_rates": None,
        "embeddings": None,
        **columns,
    }
    with pytest.raises(InvalidArgumentError) as caught:
        PromptColumns.make(**given_columns)
    assert caught.value.field_violations[0].field == field


def test_a_steps_request_id_is_fixed_by_curriculum_run_and_step():
    assert batch_request_id("c", "run", 3) == batch_request_id("c", "run", np.int64(3))
    different = [("c", "run", 3), ("d", "run", 3), ("c", "other", 3), ("c", "run", 4)]
    assert len({batch_request_id(*key) for key in different}) == 4
    assert batch_request_id("c", None, None) != batch_request_id("c", None, None)
    with pytest.raises(InvalidArgumentError, match="run_id"):
        batch_request_id("c", None, 3)


@pytest.mark.parametrize(
    ("target", "resolved", "balanced"),
    [
        ("sampler.example:50051", "dns:///sampler.example:50051", True),
        ("dns:///sampler.example:50051", "dns:///sampler.example:50051", True),
        ("localhost:50051", "localhost:50051", False),
        ("127.0.0.1:50051", "127.0.0.1:50051", False),
        ("[::1]:50051", "[::1]:50051", False),
        ("unix:/tmp/service.sock", "unix:/tmp/service.sock", False),
    ],
)
def test_a_name_is_resolved_and_balanced_and_an_address_is_not(target, resolved, balanced):
    endpoint = Endpoint.make(target, token=None, tls=None, max_message_bytes=1000)
    options = dict(endpoint.options)
    config = json.loads(str(options["grpc.service_config"]))
    assert endpoint.target == resolved
    assert ("loadBalancingConfig" in config) is balanced
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert options["grpc.max_receive_message_length"] == 1000


def test_a_token_is_encrypted_across_the_network_unless_told_otherwise():
    def encrypted(target: str, token: str | None, tls: bool | None) -> bool:
        made = Endpoint.make(target, token=token, tls=tls, max_message_bytes=1000)
        return made.credentials is not None

    assert encrypted("sampler.example:1", "t", None)
    assert not encrypted("sampler.example:1", None, None)
    assert not encrypted("localhost:1", "t", None)
    assert not encrypted("sampler.example:1", "t", False)
    assert encrypted("localhost:1", None, True)
    with pytest.raises(InvalidArgumentError, match="private_key"):
        Tls(certificate="client.pem").credentials()


def test_health_messages_are_those_of_the_standard_service():
    assert health_request("x") == health_pb2.HealthCheckRequest(service="x").SerializeToString()
    for status in Health:
        assert parse_health(health_pb2.HealthCheckResponse(status=int(status)).SerializeToString()) is status
