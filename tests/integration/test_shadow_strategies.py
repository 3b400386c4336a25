"""Shadow strategies on a real log server: followed by one replica, read on any, counted once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import FailedPrecondition, InvalidArgument
from sampler_service.log import LogClient
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.shadowing import Shadowing
from sampler_service.replica.snapshotting import take_snapshot

QUIET = ReplicaSettings(tick_seconds=3600)
SHADOWS = {"even": "uniform-grpo", "sharp": {"preset": "learnability", "exploration": 0.0}}
PROMPTS = 80
ALWAYS = 10**12
"""So that no batch is too old to be compared, however slow the machine."""


def strategy(preset: str = "cures", **parts: object) -> pb.Strategy:
    # No iterations: every batch has the default budget, 8 prompts of 8 rollouts.
    return json_format.ParseDict({"preset": preset, "iterations": {}, **parts}, pb.Strategy())


class Site:
    """A replica of one curriculum, and what follows its shadows when it is told to."""

    def __init__(self, client: LogClient, *, patience_seconds: float = 0.0) -> None:
        self.host = ReplicaHost(client, QUIET, seed=1)
        self.patience_seconds = patience_seconds
        self.begin_following()

    def begin_following(self) -> None:
        self.shadowing = Shadowing(
            lambda: self.host._curricula,
            1.0,
            report_seconds=0.0,
            patience_seconds=self.patience_seconds,
            compare_within_millis=ALWAYS,
        )

    async def create(self, **parts: object) -> None:
        request = pb.CreateCurriculumRequest(
            request_id="create", curriculum_id="math", strategy=strategy(**{"shadows": SHADOWS, **parts})
        )
        await self.host.create_curriculum(request)

        async def chunks() -> AsyncIterator[pb.AddPromptsRequest]:
            yield pb.AddPromptsRequest(
                curriculum_id="math", request_id="add", prompt_ids=[f"p{i}" for i in range(PROMPTS)]
            )

        await self.host.add_prompts(chunks())

    async def train(self, steps: range) -> None:
        rng = np.random.default_rng(steps.start)
        for step in steps:
            request = pb.NextBatchRequest(
                curriculum_id="math", request_id=f"next-{step}", batch_size=8, policy_version=step
            )
            batch = (await self.host.next_batch(request)).batch
            rewards = [
                float(rng.random() < int(id_[1:]) / PROMPTS)
                for id_, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
                for _ in range(quota)
            ]
            await self.host.report_rollouts(
                pb.ReportRolloutsRequest(
                    curriculum_id="math",
                    request_id=f"report-{step}",
                    lease_id=batch.lease_id,
                    prompt_ids=batch.prompt_ids,
                    rollout_counts=batch.quotas,
                    rewards=rewards,
                    policy_version=step,
                )
            )

    async def follow(self) -> None:
        """Until there is nothing left to fold or to report."""
        replica = await self.host.replica("math")
        await replica.catch_up()
        for _ in range(200):
            before = replica.state.revision
            await self.shadowing.look_round()
            follower = self.shadowing._followers.get(replica)
            if follower is not None and not follower.behind and replica.state.revision == before:
                return
        raise AssertionError("the shadows never caught up")

    async def shadows(self) -> pb.Shadows:
        answer = await self.host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))
        return answer.summary.shadows

    async def update(self, wanted: pb.Strategy, request_id: str) -> None:
        await self.host.update_curriculum(
            pb.UpdateCurriculumRequest(request_id=request_id, curriculum_id="math", strategy=wanted)
        )


@pytest.fixture
async def site(log_client: LogClient) -> Site:
    return Site(log_client)


async def test_every_shadow_predicts_and_draws_at_every_batch(site: Site) -> None:
    await site.create()
    await site.train(range(6))
    await site.follow()
    shadows = await site.shadows()
    assert [one.strategy for one in shadows.strategies] == ["in force", "even", "sharp"]
    assert (shadows.batches, shadows.compared_batches) == (6, 6)
    summary = (await site.host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))).summary
    served = shadows.strategies[0]
    assert served.calibration.predictions == summary.calibration.predictions
    assert served.calibration.brier == pytest.approx(summary.calibration.brier, rel=1e-6)
    for one in shadows.strategies:
        assert one.calibration.predictions == served.calibration.predictions
        assert 0 <= one.expected_mixed_share <= 1
        assert 0 < one.quota_overlap <= 1
        assert 0 <= one.batch_overlap <= 1
    assert [len(series.briers) for series in shadows.series] == [1, 1, 1]


async def test_nothing_is_followed_without_shadows(site: Site) -> None:
    await site.create(shadows={})
    await site.train(range(2))
    assert await site.shadowing.look_round() == 0.0
    summary = (await site.host.get_summary(pb.GetSummaryRequest(curriculum_id="math"))).summary
    assert not summary.HasField("shadows")


async def test_replicas_agree_on_what_one_of_them_has_followed(log_client: LogClient) -> None:
    sites = [Site(log_client, patience_seconds=3600) for _ in range(2)]
    await sites[0].create()
    for start in (0, 3, 6):
        await sites[start % 2].train(range(start, start + 3))
        await sites[0].follow()
        await (await sites[1].host.replica("math")).catch_up()
        await sites[1].shadowing.look_round()
    assert not sites[1].shadowing._followers, "the other one left it to the first"
    replicas = [await one.host.replica("math") for one in sites]
    for replica in replicas:
        await replica.catch_up()
    assert replicas[0].state.digest() == replicas[1].state.digest()
    assert (await sites[1].shadows()).batches == 9


async def test_of_two_that_follow_at_once_one_gives_way(log_client: LogClient) -> None:
    sites = [Site(log_client) for _ in range(2)]
    await sites[0].create()
    await sites[0].train(range(4))
    for _ in range(30):
        for one in sites:
            await (await one.host.replica("math")).catch_up()
            await one.shadowing.look_round()
    shadows = await sites[0].shadows()
    assert shadows.batches == 4
    assert shadows.strategies[0].calibration.predictions == 4 * 64


async def test_after_a_restart_what_was_missed_is_counted_from_the_log(site: Site) -> None:
    await site.create()
    await site.train(range(4))
    await site.follow()
    before = await site.shadows()
    site.begin_following()
    await site.train(range(4, 7))
    await site.follow()
    after = await site.shadows()
    assert (before.batches, after.batches) == (4, 7)
    assert {one.calibration.predictions for one in after.strategies} == {7 * 64}


async def test_a_snapshot_keeps_the_figures_and_the_log_behind_it_is_not_needed(
    site: Site, log_client: LogClient
) -> None:
    await site.create()
    await site.train(range(3))
    await site.follow()
    replica = await site.host.replica("math")
    assert await take_snapshot(replica)
    await site.train(range(3, 5))
    assert await take_snapshot(replica)
    other = Site(log_client)
    await other.train(range(5, 7))
    await other.follow()
    shadows = await other.shadows()
    assert shadows.batches == 7
    assert {one.calibration.predictions for one in shadows.strategies} == {7 * 64}


async def test_a_change_of_the_strategy_begins_the_comparison_anew(site: Site) -> None:
    await site.create()
    await site.train(range(3))
    await site.follow()
    begun = (await site.shadows()).since_revision
    await site.update(strategy("uniform-grpo", shadows={"frontier": {}}), "update")
    fresh = await site.shadows()
    assert fresh.since_revision != begun
    assert [(one.strategy, one.calibration.predictions) for one in fresh.strategies] == [
        ("in force", 0),
        ("frontier", 0),
    ]
    await site.train(range(3, 5))
    await site.follow()
    after = await site.shadows()
    assert after.batches == 2
    assert [one.calibration.predictions for one in after.strategies] == [128, 128]


async def test_setting_the_same_strategy_again_changes_nothing(site: Site) -> None:
    await site.create()
    await site.train(range(2))
    await site.follow()
    before = await site.shadows()
    await site.update(strategy(shadows=SHADOWS), "again")
    assert await site.shadows() == before


async def test_after_a_restore_the_figures_are_those_of_the_checkpoint_and_what_follows(site: Site) -> None:
    await site.create()
    await site.train(range(3))
    await site.follow()
    kept = {"curriculum_id": "math", "checkpoint_id": "three"}
    await site.host.create_checkpoint(pb.CreateCheckpointRequest(request_id="keep", **kept))
    await site.train(range(3, 6))
    await site.follow()
    assert (await site.shadows()).batches == 6
    await site.host.restore_checkpoint(pb.RestoreCheckpointRequest(request_id="back", **kept))
    assert (await site.shadows()).batches == 3
    await site.train(range(3, 5))
    await site.follow()
    shadows = await site.shadows()
    assert shadows.batches == 5
    assert {one.calibration.predictions for one in shadows.strategies} == {5 * 64}


async def test_a_shadow_that_reads_embeddings_finds_them_though_the_strategy_in_force_does_not(
    site: Site,
) -> None:
    await site.create(preset="uniform-grpo", shadows={"dots": "dots"})

    async def chunks() -> AsyncIterator[pb.AddPromptsRequest]:
        vectors = np.random.default_rng(0).standard_normal((40, 4)).astype("<f4")
        yield pb.AddPromptsRequest(
            curriculum_id="math",
            request_id="more",
            prompt_ids=[f"p{i}" for i in range(PROMPTS, PROMPTS + 40)],
            embeddings=vectors.tobytes(),
            embedding_dim=4,
        )

    await site.host.add_prompts(chunks())
    replica = await site.host.replica("math")
    assert await take_snapshot(replica)
    await site.train(range(4))
    assert await take_snapshot(replica)
    await site.train(range(4, 6))
    await site.follow()
    assert (await site.shadows()).strategies[1].calibration.predictions == 6 * 64


async def test_a_shadow_is_validated_like_a_strategy_and_the_field_has_its_name(site: Site) -> None:
    await site.create(shadows={})
    wanted = {"typo": {"proposal": {"cures": {"temperature": -1}}}}
    with pytest.raises(InvalidArgument) as wrong:
        await site.update(strategy(shadows=wanted), "wrong")
    assert wrong.value.field == "strategy.shadows.typo.proposal.cures.temperature"
    with pytest.raises(FailedPrecondition) as missing:
        await site.update(strategy(shadows={"dots": "dots"}), "missing")
    assert missing.value.reason == "MISSING_COLUMNS"
    assert missing.value.field.startswith("strategy.shadows.dots.")
    with pytest.raises(InvalidArgument) as many:
        await site.update(strategy(shadows={f"s{i}": "mopps" for i in range(5)}), "many")
    assert (many.value.reason, many.value.field) == ("TOO_MANY_SHADOWS", "strategy.shadows")
