"""A real Prometheus, with the configuration, rules and panels of deploy/, on a service that has done something."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sampler_service.access import AuthSettings
from sampler_service.config import ServiceConfig
from tests.compat.test_monitoring import DEPLOY, RULES, expressions
from tests.redis_servers import free_port
from tests.service_process import RunningService, running_service
from trainer_client.client import AsyncCurriculumClient

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]

QUIET = {"panel Snapshot age", "panel Refusals a second"}
"""Panels that a healthy service leaves empty at first."""
READ_TOKEN = "the-token-that-prometheus-has"


def promtool(*arguments: str | Path) -> str:
    answer = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, cwd=DEPLOY / "prometheus"
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_rules_are_what_prometheus_takes():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_on_what_it_is_for_and_says_so():
    promtool("test", "rules", "alerts.test.yml")
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts.test.yml").read_text())["tests"]
    fired = {
        rule["alertname"] for test in tests for rule in test["alert_rule_test"] if rule.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in RULES}


@pytest.fixture
async def guarded(service_config: ServiceConfig) -> AsyncIterator[RunningService]:
    tokens = AuthSettings(read_token=READ_TOKEN, admin_token="the-token-of-the-administrator")
    config = service_config.model_copy(update={"auth": tokens})
    async with running_service(config) as running:
        admin = AsyncCurriculumClient(running.target, token="the-token-of-the-administrator")
        async with admin as client:
            # With a shadow, and groups of every kind: panels that compare have something to compare.
            await client.create_curriculum(
                "math", {"preset": "uniform-grpo", "shadows": {"other": {"preset": "cures"}}}
            )
            await client.add_prompts("math", ["a", "b", "c", "d"])
            for step in range(3):
                batch = await client.next_batch("math", batch_size=4, policy_version=step)
                rewards = [
                    [float(i * 4 < "abcd".index(name) * int(quota)) for i in range(int(quota))]
                    for name, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
                ]
                await client.report(batch, rewards=rewards)
                await client.advance_policy("math", step + 1)
        yield running


class Prometheus:
    """A server in a folder of its own; its files are those of deploy/, with other addresses and haste."""

    def __init__(self, home: Path, target: str) -> None:
        (home / "token").write_text(READ_TOKEN)
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yml")]
        (job,) = config["scrape_configs"]
        job["authorization"]["credentials_file"] = str(home / "token")
        # There is no name server here that knows the replicas.
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        promtool("check", "config", home / "prometheus.yml")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = home / "prometheus.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={home / 'prometheus.yml'}",
                    f"--storage.tsdb.path={home / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30
        ) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    async def until(self, what: str, holds: Any) -> None:
        """Waits for it, two minutes at most."""
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, self._log.read_text()
            try:
                if await asyncio.to_thread(holds):
                    return
            except OSError:
                pass  # It does not listen yet.
            assert time.monotonic() < deadline, f"{what}:\n{self._log.read_text()[-4000:]}"
            await asyncio.sleep(0.2)


@pytest.fixture
async def prometheus(guarded: RunningService, tmp_path: Path) -> AsyncIterator[Prometheus]:
    assert guarded.service.dashboard is not None
    address = urllib.parse.urlsplit(guarded.service.dashboard.url).netloc
    running = Prometheus(tmp_path, address)
    yield running
    running.process.terminate()
    await asyncio.to_thread(running.process.wait, 60)


async def test_prometheus_scrapes_the_service_and_evaluates_every_alert_and_panel(prometheus: Prometheus):
    def scraped() -> bool:
        up = prometheus.ask("query", query='up{job="curriculum-sampler"}')["result"]
        return bool(up) and up[0]["value"][1] == "1"

    def evaluated() -> bool:
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert not [rule["lastError"] for rule in rules if rule["health"] == "err"]
        return len(rules) == len(RULES) and all(rule["health"] == "ok" for rule in rules)

    await prometheus.until("the service is not scraped", scraped)
    await prometheus.until("the rules are not evaluated", evaluated)
    prompts = prometheus.ask("query", query='curriculum_prompts{curriculum="math"}')["result"]
    assert [sample["value"][1] for sample in prompts] == ["4"]

    def without_data() -> set[str]:
        asked = [(place, prometheus.ask("query", query=text)["result"]) for place, text in expressions()]
        return {place for place, found in asked if place.startswith("panel") and not found}

    # Rates need two scrapes; there is no snapshot of so short a history, and so many calls were not refused.
    await prometheus.until("panels stay empty", lambda: without_data() <= QUIET)


async def test_without_its_token_prometheus_sees_that_it_may_not_scrape(
    guarded: RunningService, tmp_path: Path
):
    """The other arm: the token in deploy/'s configuration is what lets it in."""
    assert guarded.service.dashboard is not None
    prometheus = Prometheus(tmp_path, urllib.parse.urlsplit(guarded.service.dashboard.url).netloc)
    (tmp_path / "token").write_text("a-wrong-one")
    try:

        def refused() -> bool:
            targets = prometheus.ask("targets")["activeTargets"]
            return bool(targets) and "401" in targets[0]["lastError"]

        await prometheus.until("it is not refused", refused)
    finally:
        prometheus.process.terminate()
        await asyncio.to_thread(prometheus.process.wait, 60)
