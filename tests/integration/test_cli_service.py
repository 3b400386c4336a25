"""The command line against a running service."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.cli import app, completion
from sampler_service.cli.calls import console
from sampler_service.cli.completion import complete_curriculum
from tests.rpc_calls import new_id, next_batch, report
from tests.service_process import ROOT, ServiceProcess, service_process

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("service")
    with service_process("--data-dir", str(directory / "data"), log=directory / "log") as process:
        yield process


@pytest.fixture
def cli(real: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(console, "width", 200)  # What COLUMNS said was read when the module was loaded.
    runner = CliRunner(env={"SAMPLER_TARGET": real.target})

    def call(*arguments: str, **options: str) -> Result:
        return runner.invoke(app, list(arguments), **options)  # type: ignore[arg-type]

    return call


def test_healthcheck_says_serving(cli: Command) -> None:
    result = cli("healthcheck", "--timeout", "60")
    assert (result.exit_code, result.output) == (0, "SERVING\n")


def test_shadow_strategies_are_followed_shown_and_removed(cli: Command, tmp_path: Path) -> None:
    cli("curricula", "create", "followed", "--preset", "cures")
    assert "has no shadow strategies" in cli("curricula", "shadows", "followed").output
    file = tmp_path / "calm.yaml"
    file.write_text("preset: frontier\nexploration: 0.5\n")
    shown = cli("curricula", "shadows", "followed", "--add", "mopps", "--add", f"calm={file}")
    assert shown.exit_code == 0, shown.output
    rows = [line.split()[0] for line in shown.output.splitlines() if "#" in line]
    assert rows == ["in", "calm", "mopps"], "in force, then the shadows by name"
    spelt = json.loads(cli("curricula", "get", "followed", "--json").output)["strategy"]
    assert spelt["shadows"]["calm"]["exploration"] == 0.5
    assert spelt["preset"] == "cures"
    fewer = cli("curricula", "shadows", "followed", "--remove", "mopps", "--json")
    assert [one["strategy"] for one in json.loads(fewer.output)["strategies"]] == ["in force", "calm"]
    assert "'nobody' is not followed; followed: calm" in " ".join(
        cli("curricula", "shadows", "followed", "--remove", "nobody").stderr.replace("│", " ").split()
    )
    wrong = cli("curricula", "shadows", "followed", "--add", 'odd={"quota": {"fixed": {"min": -1}}}')
    assert "INVALID_PARAMETER in strategy.shadows.odd.quota.fixed.min" in wrong.stderr
    cli("curricula", "delete", "followed", "--yes")


def test_the_life_of_a_curriculum(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text("strategy:\n  exploration: 0.25\n")
    made = json.loads(
        cli("curricula", "create", "life", "--preset", "cures", "--strategy", str(file), "--json").output
    )
    assert made["strategy"]["exploration"] == 0.25
    assert made["strategy"]["preset"] == "cures"
    again = cli("curricula", "create", "life")
    assert again.exit_code == 1
    assert again.stderr.startswith("error: ALREADY_EXISTS CURRICULUM_EXISTS in curriculum_id: ")
    assert len(again.stderr.splitlines()) == 1

    changed = cli("curricula", "update", "life", "--preset", "uniform-grpo", "--etag", made["etag"])
    assert changed.exit_code == 0
    assert "uniform-grpo" in changed.output
    stale = cli("curricula", "update", "life", "--preset", "cures", "--etag", made["etag"])
    assert "ABORTED ETAG_MISMATCH in etag" in stale.stderr

    assert "uniform-grpo" in cli("curricula", "list").output
    listed = json.loads(cli("curricula", "list", "--json").output)
    assert "life" in [one["curriculum_id"] for one in listed["curricula"]]
    shown = cli("curricula", "get", "life").output
    assert "max_staleness: 8\n" in shown
    again = cli("curricula", "get", "life").output
    assert again == shown, "a strategy reads in one order"

    assert cli("curricula", "delete", "life", input="n\n").exit_code == 1
    assert cli("curricula", "get", "life").exit_code == 0
    assert cli("curricula", "delete", "life", "--yes").output == "Deleted life.\n"
    gone = cli("curricula", "get", "life")
    assert gone.exit_code == 1
    assert "CURRICULUM_NOT_FOUND" in gone.stderr


def test_a_strategy_is_checked_without_being_set(cli: Command) -> None:
    would_be = cli("curricula", "create", "checked", "--preset", "dapo", "--validate-only")
    assert would_be.exit_code == 0, would_be.stderr
    assert would_be.output.startswith("Valid: checked could be created. Nothing was changed.\n")
    assert "zero_variance" in would_be.output, "the strategy is spelt out"
    assert cli("curricula", "get", "checked").exit_code == 1
    made = json.loads(cli("curricula", "create", "checked", "--preset", "cures", "--json").output)
    other = ("curricula", "update", "checked", "--preset", "dapo", "--validate-only")
    assert "Valid: checked could have this strategy." in cli(*other).output
    spelt = json.loads(cli(*other, "--json").output)
    assert (spelt["strategy"]["preset"], spelt["revision"]) == ("dapo", made["revision"])
    assert json.loads(cli("curricula", "get", "checked", "--json").output) == made
    wrong = cli("curricula", "update", "checked", "--strategy", '{"exploration": 7}', "--validate-only")
    assert (wrong.exit_code, wrong.output) == (1, wrong.stderr)
    assert wrong.stderr.startswith("error: INVALID_ARGUMENT INVALID_PARAMETER in strategy.exploration: ")
    taken = cli("curricula", "create", "checked", "--validate-only")
    assert "ALREADY_EXISTS CURRICULUM_EXISTS" in taken.stderr


def test_inspect_shows_what_is_known_of_a_prompt(cli: Command, real: ServiceProcess) -> None:
    with grpc.insecure_channel(real.target) as channel:
        stub = CurriculumServiceStub(channel)
        stub.CreateCurriculum(
            pb.CreateCurriculumRequest(
                request_id=new_id(), curriculum_id="seen", strategy=pb.Strategy(preset="uniform-grpo")
            )
        )
        chunk = pb.AddPromptsRequest(
            curriculum_id="seen", request_id=new_id(), prompt_ids=["a/1", "b"], clusters=["easy", ""]
        )
        stub.AddPrompts(iter([chunk]))
        stub.ReportRollouts(report(["a/1"], [[1, 1, 0, 1]], curriculum_id="seen"))
    row = json.loads(cli("inspect", "seen", "a/1", "--json").output)
    assert (row["alpha"], row["beta"]) == (4.0, 2.0)
    assert (row["rollouts"], row["visits"], row["cluster"], row["in_flight"]) == (4, 1, "easy", False)
    assert row["pass_rate"] == pytest.approx(4 / 6, abs=1e-6)
    assert json.loads(cli("inspect", "seen", "b", "--json").output)["rollouts"] == 0
    assert "easy" in cli("inspect", "seen", "a/1").output
    past = json.loads(cli("inspect", "seen", "a/1", "--history", "--json").output)["history"]
    (visit,) = past["visits"]
    assert (visit["status"], visit["outcomes"], visit["successes"]) == ("outside", 4, 3)
    assert (visit["pass_rate"], visit["lease_id"]) == (None, "")
    shown = cli("inspect", "seen", "a/1", "--history").output
    assert "1 visit with 4 of the prompt's 4 counted rollouts" in shown
    assert "outside" in shown
    unknown = cli("inspect", "seen", "nobody")
    assert unknown.exit_code == 1
    assert "PROMPT_NOT_FOUND" in unknown.stderr


def test_ids_are_shown_as_they_are_and_leave_the_terminal_alone(cli: Command, real: ServiceProcess) -> None:
    """Brackets are no markup, and what would move the cursor is escaped, whoever chose the ids."""
    odd = "[/b] :smile: \x1b[2J\x07\x9b"
    shown = "[/b] :smile: \\x1b[2J\\x07\\x9b"
    name = "[/red] <b>"
    with grpc.insecure_channel(real.target) as channel:
        stub = CurriculumServiceStub(channel)
        strategy = pb.Strategy(preset="uniform-grpo")
        stub.CreateCurriculum(
            pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id=name, strategy=strategy)
        )
        chunk = pb.AddPromptsRequest(
            curriculum_id=name, request_id=new_id(), prompt_ids=[odd], clusters=[odd]
        )
        stub.AddPrompts(iter([chunk]))
        stub.NextBatch(next_batch(1, curriculum_id=name, trainer_id=odd))
    for arguments, expected in (
        (("curricula", "list"), name),
        (("curricula", "get", name), name),
        (("top", "--once"), name),
        (("top", name, "--once"), shown),
        (("inspect", name, odd), shown),
        (("inspect", name, odd, "--history"), shown),
    ):
        result = cli(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
        assert expected in result.output
        assert not set("\x1b\x07\x9b") & set(result.output)


def test_one_prompts_visits_are_written_to_a_file(cli: Command, real: ServiceProcess, tmp_path: Path) -> None:
    assert cli("curricula", "create", "written", "--preset", "uniform-grpo").exit_code == 0
    with grpc.insecure_channel(real.target) as channel:
        stub = CurriculumServiceStub(channel)
        chunk = pb.AddPromptsRequest(curriculum_id="written", request_id=new_id(), prompt_ids=["a"])
        stub.AddPrompts(iter([chunk]))
        for rewards in ([1, 0], [1, 1, 0]):
            stub.ReportRollouts(report(["a"], [rewards], curriculum_id="written"))
    said = cli("inspect", "written", "a", "--output", str(tmp_path / "a.csv"))
    assert said.output == f"Wrote 2 visits to {tmp_path / 'a.csv'}.\n"
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    told = json.loads(cli("inspect", "written", "a", "-o", str(tmp_path / "a.parquet"), "--json").output)
    assert (told["visits"], told["visits_found"]) == (2, 2)
    columns = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert list(columns) == list(rows[0])
    assert [int(row["successes"]) for row in rows] == columns["successes"] == [1, 2]
    assert columns["status"] == ["VISIT_STATUS_OUTSIDE"] * 2
    fewer = cli("inspect", "written", "a", "--visits", "1", "-o", str(tmp_path / "a.csv")).output
    assert fewer.endswith(", the newest of 2; --visits asks for more.\n")
    for wrong, why in (("a.txt", "ends neither in"), ("none/a.csv", "cannot be written")):
        refused = cli("inspect", "written", "a", "-o", str(tmp_path / wrong))
        assert refused.exit_code != 0
        assert why in " ".join(refused.stderr.replace("│", " ").split())
    assert "PROMPT_NOT_FOUND" in cli("inspect", "written", "b", "-o", str(tmp_path / "b.csv")).stderr
    assert {file.name for file in tmp_path.iterdir()} == {"a.csv", "a.parquet"}


def test_top_shows_all_curricula_or_one_and_speaks_json(cli: Command, real: ServiceProcess) -> None:
    with grpc.insecure_channel(real.target) as channel:
        stub = CurriculumServiceStub(channel)
        for name in ("watched", "idle"):
            stub.CreateCurriculum(pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id=name))
        chunk = pb.AddPromptsRequest(curriculum_id="watched", request_id=new_id(), prompt_ids=["a", "b"])
        stub.AddPrompts(iter([chunk]))
        stub.ReportRollouts(report(["a", "b"], [[1, 0, 1], [0, 0]], curriculum_id="watched"))
        stub.NextBatch(
            pb.NextBatchRequest(
                curriculum_id="watched", request_id=new_id(), batch_size=1, trainer_id="trainer-of-top"
            )
        )
    everything = json.loads(cli("top", "--once", "--json").output)
    (one,) = [row for row in everything["curricula"] if row["curriculum_id"] == "watched"]
    assert (one["prompts"], one["rollouts_spent"], one["live_leases"]) == (2, 5, 1)
    assert one["effective_prompt_ratio"] == 0.5
    assert one["rollouts_per_second"] is None
    (idle,) = json.loads(cli("top", "idle", "--once", "--json").output)["curricula"]
    assert idle["effective_prompt_ratio"] is None

    table = cli("top", "--once").output
    assert "watched" in table
    assert "50%" in table
    shown = cli("top", "watched", "--once").output
    assert "trainer-of-top" in shown
    assert "0.60 to 0.70" in shown
    missing = cli("top", "nobody", "--once")
    assert (missing.exit_code, "CURRICULUM_NOT_FOUND" in missing.stderr) == (1, True)


def test_top_watches_until_it_is_interrupted_and_gives_rates(cli: Command, real: ServiceProcess) -> None:
    assert cli("curricula", "create", "rated").exit_code == 0
    command = [sys.executable, "-m", "sampler_service", "top", "--json", "--interval", "0.2"]
    command += ["--target", real.target]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.wait(120)
    rates = [row["rollouts_per_second"] for line in lines[1:] for row in line["curricula"]]
    assert rates
    assert all(rate == 0.0 for rate in rates)


def test_the_shell_is_offered_the_services_curricula(cli: Command, monkeypatch, real: ServiceProcess) -> None:
    # The others would be taken apart, or run, by the shell that puts them on the command line.
    for name in (
        "offered-one",
        "offered/two",
        "offered $(reboot)",
        "offered;reboot",
        "offered*",
        "offered`x`",
    ):
        assert cli("curricula", "create", name).exit_code == 0
    monkeypatch.setattr(completion, "_SECONDS", 60.0)
    monkeypatch.setenv("SAMPLER_TARGET", real.target)
    assert complete_curriculum("offered") == ["offered-one", "offered/two"]
    monkeypatch.setenv("SAMPLER_TARGET", "127.0.0.1:1")
    assert complete_curriculum("offered") == []


def test_an_unknown_preset_is_said_in_one_line(cli: Command) -> None:
    result = cli("curricula", "create", "x", "--preset", "grpo2000")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: INVALID_ARGUMENT UNKNOWN_PRESET in strategy.preset: ")


def test_a_curriculum_goes_out_and_comes_back_as_a_file(cli: Command, tmp_path: Path) -> None:
    cli("curricula", "create", "travels", "--preset", "cures")
    file = tmp_path / "travels.parquet"
    out = cli("export", "travels", str(file))
    assert (out.exit_code, out.output.startswith("Exported travels at ")) == (0, True)
    back = cli("import", str(file), "--as", "returned")
    assert back.output == "Imported returned: 0 prompts, 0 rollouts, policy version 0.\n"
    made = json.loads(cli("curricula", "get", "returned", "--json").output)
    assert made["strategy"]["preset"] == "cures"
    taken = cli("import", str(file))
    assert (taken.exit_code, "ALREADY_EXISTS CURRICULUM_EXISTS" in taken.stderr) == (1, True)


def test_an_export_that_fails_leaves_no_file(cli: Command, tmp_path: Path) -> None:
    result = cli("export", "nobody", str(tmp_path / "nobody.parquet"))
    assert (result.exit_code, "CURRICULUM_NOT_FOUND" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    unreadable = cli("import", str(tmp_path / "missing.parquet"))
    assert (unreadable.exit_code, unreadable.stderr.startswith("error: ")) == (1, True)
    assert "cannot be read" in unreadable.stderr
