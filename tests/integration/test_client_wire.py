"""The blocking client against a service that fails on demand."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from tests.client_patience import why_not
from tests.integration.client_fake_service import RunningFake, refused, unavailable
from trainer_client.client import Action, CurriculumClient, Report, Source
from trainer_client.exceptions import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)


@pytest.fixture
def fake():
    running = RunningFake()
    yield running
    running.stop()


@pytest.fixture
def client(fake):
    with CurriculumClient(fake.target, timeout_seconds=60) as client:
        yield client


def test_every_rpc_of_the_service_goes_over_the_wire(fake, client, tmp_path):
    client.create_curriculum("c", {"preset": "cures", "proposal": {"cures": {"temperature": 0.1}}})
    client.get_curriculum("c")
    assert [curriculum.curriculum_id for curriculum in client.list_curricula()] == ["c0", "c1", "c2", "c3"]
    client.update_curriculum("c", "frontier", etag="e")
    assert client.add_prompts("c", ["a", "b"]).added == 2
    batch = client.next_batch("c", batch_size=2)
    client.report(batch, rewards=[[1, 0], [1, 0, 0]])
    assert len(list(client.stream_reports([Report(batch, rewards=[[1, 0], [0, 0, 1]])]))) == 1
    assert client.release(batch).released == 2
    client.advance_policy("c", 3, kl=0.02)
    client.create_checkpoint("c", "step-1")
    client.restore_checkpoint("c", "step-1")
    assert client.list_checkpoints("c")[0].checkpoint_id == "step-1"
    client.delete_checkpoint("c", "step-1")
    assert [page.prompt_ids for page in client.prompt_states("c")] == [["a"], ["b"]]
    assert client.prompt_history("c", "a").lease_ids == ["l"]
    assert client.summary("c").prompts == 7
    assert next(client.watch_summary("c")).prompts == 0
    assert client.export_curriculum("c", tmp_path / "c.parquet") == "7"
    assert (tmp_path / "c.parquet").read_bytes() == b"half and half"
    assert client.import_curriculum(tmp_path / "c.parquet", curriculum_id="d").prompt_count == 13
    assert len(client.replay("c", ["cures", "vcrl"]).replays) == 3
    assert client.delete_curriculum("c") == "9"
    service = pb.DESCRIPTOR.services_by_name["CurriculumService"]
    assert set(fake.service.calls) == {method.name for method in service.methods}


def test_what_is_only_checked_is_sent_without_a_request_id(fake, client):
    # So that a service too old to know validate_only refuses it.
    client.create_curriculum("c", validate_only=True, request_id="mine")
    client.update_curriculum("c", "frontier", validate_only=True)
    for rpc in ("CreateCurriculum", "UpdateCurriculum"):
        (request,) = fake.service.requests[rpc]
        assert (request.validate_only, request.request_id) == (True, "")


def test_a_batch_comes_back_as_numpy_columns(client):
    batch = client.next_batch("c", batch_size=2, policy_version=5)
    assert batch.prompt_ids == ["a", "b"]
    assert batch.quotas.dtype == np.int32
    assert batch.quotas.tolist() == [2, 3]
    assert batch.pass_rates.dtype == np.float32
    assert (batch.sources == Source.REPLAY).tolist() == [False, True]
    assert batch.expire_time.timestamp() == 1_700_000_000
    assert (batch.policy_version, batch.notes, batch.duplicate) == (5, ["a note"], False)
    with pytest.raises(ValueError, match="read-only"):
        batch.quotas[0] = 9


def test_a_report_goes_out_flat_and_its_directives_come_back_per_prompt(fake, client):
    batch = client.next_batch("c", batch_size=2, policy_version=5)
    result = client.report(batch, rewards=[[1, 0], [0, 0.5, 1]], statuses=["ok"] * 4 + ["truncated"])
    sent = fake.service.requests["ReportRollouts"][0]
    assert list(sent.rollout_counts) == [2, 3]
    assert list(sent.rewards) == [1, 0, 0, 0.5, 1]
    assert (sent.lease_id, sent.policy_version) == (batch.lease_id, 5)
    assert sent.statuses[-1] == pb.ROLLOUT_STATUS_TRUNCATED
    assert result.accepted == 5
    assert [directive.action for directive in result.directives] == [Action.DONE, Action.SAMPLE_MORE]
    assert result.directives.with_action(Action.SAMPLE_MORE)[0].rollouts == 4


def test_the_same_step_of_a_run_asks_with_the_same_id_on_every_rank(fake, client):
    with CurriculumClient(fake.target) as other_rank:
        first = client.next_batch("c", batch_size=2, run_id="run", step=7)
        second = other_rank.next_batch("c", batch_size=2, run_id="run", step=7)
    assert second.lease_id == first.lease_id
    assert second.duplicate
    sent = fake.service.requests["NextBatch"]
    assert sent[0] == sent[1]
    assert client.next_batch("c", batch_size=2, run_id="run", step=8).lease_id != first.lease_id


@pytest.mark.parametrize("failures", [2, 8], ids=["within gRPC's own retries", "beyond them"])
def test_a_call_is_retried_with_one_id_while_the_service_is_unavailable(fake, client, failures):
    fake.service.failures["NextBatch"] = deque([unavailable] * failures)
    client.next_batch("c", batch_size=2)
    sent = fake.service.requests["NextBatch"]
    assert len(sent) == failures + 1
    assert len({request.request_id for request in sent}) == 1


def test_a_report_whose_reply_is_lost_is_counted_once(fake, client):
    fake.service.lost_replies["ReportRollouts"] = 7
    result = client.report(None, ["a"], rewards=[[1]], curriculum_id="c", policy_version=0)
    assert result.duplicate
    assert fake.service.calls["ReportRollouts"] == 8
    assert fake.service.counted == [result.request_id]


def test_a_deadline_bounds_the_whole_call_retries_included(fake, client):
    fake.service.always["NextBatch"] = unavailable
    away = why_not(lambda seconds: client.next_batch("c", batch_size=2, timeout_seconds=seconds))
    assert isinstance(away, UnavailableError)
    assert isinstance(away, ConnectionError)
    assert "the log is away" in str(away)
    fake.service.always.clear()
    fake.service.delay_seconds = 1.0
    with pytest.raises(DeadlineError) as slow:
        client.next_batch("c", batch_size=2, timeout_seconds=0.2)
    assert isinstance(slow.value, TimeoutError)


def test_an_error_carries_reason_fields_and_retry_time(fake, client):
    fake.service.always["GetCurriculum"] = refused
    with pytest.raises(NotFoundError) as caught:
        client.get_curriculum("nope")
    error = caught.value
    assert isinstance(error, LookupError)
    assert (error.reason, error.code, error.retry_after_seconds) == ("CURRICULUM_NOT_FOUND", "NOT_FOUND", 1.5)
    assert error.field_violations[0].field == "curriculum_id"
    assert error.details.metadata == {"id": "nope"}
    assert "is unknown; create it first" in str(error)


def test_the_token_travels_as_a_bearer_and_is_never_shown(fake):
    with CurriculumClient(fake.target, token="s3cret") as client:
        client.summary("c")
        assert "s3cret" not in repr(client)
        assert "s3cret" not in repr(vars(client))
    assert fake.service.metadata[0]["authorization"] == "Bearer s3cret"


def test_many_prompts_go_out_in_chunks_that_fit(fake, client):
    fake.service.lost_replies["AddPrompts"] = 1
    ids = [f"prompt-{i}" for i in range(20_000)]
    embeddings = np.arange(20_000 * 64, dtype=np.float64).reshape(20_000, 64)
    added = client.add_prompts("c", iter(ids), clusters=("k" for _ in ids), embeddings=embeddings)
    chunks = fake.service.chunks
    assert added.added == 20_000
    assert [prompt for chunk in chunks for prompt in chunk.prompt_ids] == ids
    assert max(chunk.ByteSize() for chunk in chunks) <= 2 * 1024 * 1024
    sent = np.concatenate([np.frombuffer(chunk.embeddings, "<f4") for chunk in chunks])
    np.testing.assert_array_equal(sent, embeddings.astype(np.float32).ravel())
    # The reply was lost: the client asks, and sends the last chunk again, of which it cannot know.
    first, question, again = fake.service.requests["AddPrompts"]
    assert first[0].request_id
    assert not any(chunk.request_id for chunk in first[1:])
    assert [message.prompt_ids for message in question] == [[]]
    assert again == [chunks[-1]]
    assert len(first) == again[0].first_chunk > 2


def test_a_broken_stream_of_prompts_goes_on_where_it_broke_off(fake, client):
    fake.service.break_prompts_after = 3
    ids = [f"prompt-{i}" for i in range(50_000)]
    assert client.add_prompts("c", ids).added == 50_000
    assert [prompt for chunk in fake.service.chunks for prompt in chunk.prompt_ids] == ids
    broken, _, rest = fake.service.requests["AddPrompts"]
    assert len(broken) == 3
    assert rest[0].first_chunk == 3
    assert rest[0].request_id == broken[0].request_id
    assert sum(len(chunk.prompt_ids) for chunk in rest) == 50_000 - 2 * 8192


def test_a_request_id_of_ones_own_lets_the_next_process_go_on(fake, client):
    ids = [f"prompt-{i}" for i in range(30_000)]
    client.add_prompts("c", ids, request_id="load")
    client.add_prompts("c", ids, request_id="load")
    *_, question, rest = fake.service.requests["AddPrompts"]
    assert [message.request_id for message in question] == ["load"]
    assert len(rest) == 1


def test_a_lease_is_released_when_its_block_raises(fake, client):
    with pytest.raises(ZeroDivisionError), client.lease("c", batch_size=2) as batch:
        raise ZeroDivisionError
    assert fake.service.requests["ReleaseBatch"][0].lease_id == batch.lease_id
    with client.lease("c", batch_size=2):
        pass
    assert fake.service.calls["ReleaseBatch"] == 1


def reports(count: int) -> list[Report]:
    return [
        Report(None, [f"p{i}"], [[1.0]], curriculum_id="c", policy_version=0, request_id=f"id-{i}")
        for i in range(count)
    ]


def test_a_stream_answers_in_order_and_goes_on_after_a_refusal(client):
    sent = reports(5)
    sent[2] = Report(None, ["bad"], [[1.0]], curriculum_id="c", policy_version=0, request_id="id-2")
    results = list(client.stream_reports(sent, max_in_flight=3))
    assert [result.request_id for result in results] == [f"id-{i}" for i in range(5)]
    assert [result.error is None for result in results] == [True, True, False, True, True]
    assert isinstance(results[2].error, InvalidArgumentError)
    assert results[2].error.reason == "PROMPT_NOT_FOUND"


def test_a_broken_stream_is_opened_again_and_counts_each_report_once(fake, client):
    fake.service.break_stream_after = 4
    results = list(client.stream_reports(iter(reports(10)), max_in_flight=3))
    assert [result.request_id for result in results] == [f"id-{i}" for i in range(10)]
    assert fake.service.counted == [f"id-{i}" for i in range(10)]
    assert results[4].duplicate
    assert fake.service.calls["StreamRollouts"] == 2


def test_a_stream_with_one_in_flight_lets_the_next_report_depend_on_the_last_result(client):
    seen: list[str] = []

    def dependent():
        for i in range(3):
            assert len(seen) == i
            yield reports(3)[i]

    for result in client.stream_reports(dependent(), max_in_flight=1):
        seen.append(result.request_id)  # noqa: PERF401 - the iterable looks at it meanwhile
    assert seen == ["id-0", "id-1", "id-2"]


def test_watching_goes_on_after_the_service_was_away(client):
    watch = client.watch_summary("c", timeout_seconds=60)
    assert [next(watch).prompts for _ in range(4)] == [0, 1, 2, 3]
