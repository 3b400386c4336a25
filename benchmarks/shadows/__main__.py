"""`python -m benchmarks shadows`: what shadow strategies cost the calls that are served, and how far they get."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.service import latency
from benchmarks.service.process import Server, running
from benchmarks.shadows.comparison import processor_milliseconds
from curriculum.v1 import curriculum_pb2 as pb

BASELINE = Path(__file__).with_name("baseline.json")
CURRICULUM = "followed"
SHADOWS = ("mopps", "frontier", "gvm", "vade")
_PATIENCE_SECONDS = 300.0


def _processor_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _shadows(server: Server) -> pb.Shadows:
    channel, stub = server.stub()
    with channel:
        answer = stub.GetSummary(pb.GetSummaryRequest(curriculum_id=CURRICULUM), wait_for_ready=True)
        return answer.summary.shadows


def _set(server: Server, preset: str, names: tuple[str, ...]) -> None:
    channel, stub = server.stub()
    strategy = pb.Strategy(preset=preset)
    strategy.iterations.SetInParent()
    strategy.shadows.update({name: {"preset": name} for name in names})
    with channel:
        stub.UpdateCurriculum(
            pb.UpdateCurriculumRequest(
                request_id=f"set-{len(names)}", curriculum_id=CURRICULUM, strategy=strategy
            )
        )


def _caught_up(server: Server, batches: int) -> float:
    """Seconds until so many batches have been scored."""
    started = time.perf_counter()
    while _shadows(server).batches < batches:
        if time.perf_counter() - started > _PATIENCE_SECONDS:
            raise RuntimeError(f"only {_shadows(server).batches} of {batches} batches were scored")
        time.sleep(0.25)
    return time.perf_counter() - started


def _measured(server: Server, options: argparse.Namespace, think: float, seed: int) -> dict[str, Any]:
    before, started = _processor_seconds(server), time.perf_counter()
    figures = latency.measure(
        server, CURRICULUM, options.batch, 8, options.rounds, think, seed=seed, settle_seconds=1.0
    )
    used, passed = _processor_seconds(server) - before, time.perf_counter() - started
    return figures | {"processor_share": round(used / passed, 3), "seconds": round(passed, 1)}


def of_pool(folder: Path, prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    """Calls without shadows, then with four of them: at a trainer's pace, and as fast as a client can ask."""
    figures: dict[str, Any] = {}
    rounds = 10 * (options.rounds // 10 + 2)
    with running(folder) as server:
        latency.add_prompts(server, CURRICULUM, options.preset, prompts)
        # So that both are measured on a pool that has evidence.
        latency.measure(server, CURRICULUM, options.batch, 8, 20, 0.0, seed=0)
        for number, (pace, think) in enumerate((("paced", options.pace_seconds), ("hurried", 0.005)), 1):
            figures[pace] = {"without": _measured(server, options, think, number)}
        figures["resident_megabytes"] = {"without": server.resident_bytes() // 2**20}
        _set(server, options.preset, SHADOWS)
        for number, (pace, think) in enumerate((("paced", options.pace_seconds), ("hurried", 0.005)), 3):
            done = _shadows(server)
            measured = _measured(server, options, think, number)
            measured["seconds_behind"] = round(_caught_up(server, done.batches + rounds), 1)
            now = _shadows(server)
            measured["compared_of_scored"] = round(
                (now.compared_batches - done.compared_batches) / (now.batches - done.batches), 3
            )
            figures[pace]["with_four"] = measured
        figures["resident_megabytes"]["with_four"] = server.resident_bytes() // 2**20
    return figures


def main() -> None:
    """Prints, and with --write keeps, the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks shadows", description=__doc__)
    parser.add_argument("--prompts", default="1e5,1e6")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--preset", default="cures")
    parser.add_argument("--pace-seconds", type=float, default=0.5, help="between two calls of a trainer")
    parser.add_argument("--write", action="store_true", help="keep as benchmarks/shadows/baseline.json")
    options = parser.parse_args()
    figures: dict[str, Any] = {"environment": environment(), "batch": options.batch, "shadows": SHADOWS}
    for text in options.prompts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures[text] = of_pool(Path(folder) / "data", int(float(text)), options)
        figures[text]["processor_milliseconds_per_batch"] = processor_milliseconds(
            options.preset, SHADOWS, int(float(text)), options.batch, 10
        )
        print(text, json.dumps(figures[text], indent=1), flush=True)
    if options.write:
        BASELINE.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
