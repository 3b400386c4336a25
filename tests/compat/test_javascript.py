"""The trainer in JavaScript, with the clients that npm has: nothing of ours but the proto."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from tests.service_process import ROOT, RunningService

pytestmark = [pytest.mark.slow, pytest.mark.node]


def run(*command: str | Path, cwd: Path) -> str:
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


async def test_it_takes_its_steps_from_the_proto_alone(service: RunningService, tmp_path: Path):
    shutil.copy(ROOT / "examples" / "trainer.mjs", tmp_path)
    run("npm", "install", "--no-audit", "--no-fund", "@grpc/grpc-js", "@grpc/proto-loader", cwd=tmp_path)
    said = await asyncio.to_thread(run, "node", "trainer.mjs", service.target, ROOT / "proto", cwd=tmp_path)
    assert said.count("16 prompts, 128 rollouts counted") == 3
    summary = (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="from-js"))).summary
    assert (summary.rollouts_spent, summary.policy_version) == (384, 3)
