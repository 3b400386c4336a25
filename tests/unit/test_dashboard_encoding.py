"""Proto messages become the JSON that a page wants."""

import json

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard.encoding import dump_json, encode_message


def test_int64_is_a_number_and_not_a_string():
    encoded = encode_message(pb.Summary(prompts=2**40, rollouts_spent=7))
    assert json.loads(dump_json(encoded))["prompts"] == 2**40
    assert encoded["rollouts_spent"] == 7


def test_every_field_is_present_even_at_its_default():
    assert set(encode_message(pb.Summary())) == {field.name for field in pb.Summary.DESCRIPTOR.fields}


def test_what_was_not_set_is_null_and_not_zero():
    strategy = encode_message(pb.Strategy(exploration=0.0))
    assert strategy["exploration"] == 0.0
    assert strategy["rollouts_per_prompt"] is None
    assert encode_message(pb.Summary())["update_time"] is None


def test_nan_and_infinity_are_null_because_json_has_neither():
    history = pb.History(briers=[0.25, float("nan"), float("inf")])
    assert encode_message(history)["briers"] == [0.25, None, None]
    page = pb.ListPromptStatesResponse(pass_rates=[float("nan"), 0.5])
    assert encode_message(page)["pass_rates"] == [None, 0.5]


def test_float32_is_written_as_short_as_it_was_meant():
    assert encode_message(pb.ListPromptStatesResponse(pass_rates=[0.3, 1e-7]))["pass_rates"] == [0.3, 1e-7]


def test_structs_timestamps_and_enums_are_readable():
    curriculum = pb.Curriculum()
    curriculum.strategy.quota.update({"knapsack": {"min": 2, "max": 32}})
    curriculum.create_time.FromSeconds(1_760_000_000)
    encoded = encode_message(curriculum)
    assert encoded["strategy"]["quota"] == {"knapsack": {"min": 2, "max": 32}}
    assert encoded["create_time"] == "2025-10-09T08:53:20Z"
    batch = pb.Batch(sources=[pb.SOURCE_EXPLORATION, 99])
    assert encode_message(batch)["sources"] == ["SOURCE_EXPLORATION", 99]


def test_structs_are_written_in_one_order_whatever_it_was():
    curriculum = pb.Curriculum()
    curriculum.strategy.proposal.update({"frontier": {"power": 4, "balance": 0, "list": [{"b": 1, "a": 2}]}})
    proposal = encode_message(curriculum)["strategy"]["proposal"]
    assert (
        json.dumps(proposal) == '{"frontier": {"balance": 0.0, "list": [{"a": 2.0, "b": 1.0}], "power": 4.0}}'
    )


def test_bytes_are_base64():
    assert encode_message(pb.AddPromptsRequest(embeddings=b"\x00\xff"))["embeddings"] == "AP8="
