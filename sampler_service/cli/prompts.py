"""`inspect`: what the service believes of one prompt, and how that came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli.calls import (
    DEFAULT_TARGET,
    JsonOption,
    TargetOption,
    TimeoutOption,
    console,
    service,
)
from sampler_service.cli.completion import complete_curriculum
from sampler_service.cli.visits_file import write_visits

__all__ = ["inspect", "visits_table"]


def inspect(
    curriculum: Annotated[
        str, typer.Argument(help="Id of the curriculum.", autocompletion=complete_curriculum)
    ],
    prompt: Annotated[str, typer.Argument(help="Id of the prompt.")],
    history: Annotated[
        bool, typer.Option("--history", help="Also its visits, as far back as the log goes.")
    ] = False,
    visits: Annotated[
        int, typer.Option(min=1, max=1000, help="With --history or --output: the newest so many visits.")
    ] = 200,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write its visits to FILE instead, which ends in .csv or .parquet.",
        ),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show one prompt: posterior, moving averages, visits, whether it is in flight."""
    if output is not None:
        asked = pb.GetPromptHistoryRequest(curriculum_id=curriculum, prompt_id=prompt, most_visits=visits)
        write_visits(output, asked, target, timeout, as_json)
        return
    request = pb.ListPromptStatesRequest(
        curriculum_id=curriculum, filter=pb.PromptFilter(prompt_ids=[prompt]), page_size=1
    )
    with service(target) as stub:
        answer = stub.ListPromptStates(request, timeout=timeout)
        past = None
        if history:
            asked = pb.GetPromptHistoryRequest(
                curriculum_id=curriculum, prompt_id=prompt, most_visits=visits, min_revision=answer.revision
            )
            past = stub.GetPromptHistory(asked, timeout=timeout)
    row: dict[str, object] = {
        "prompt_id": answer.prompt_ids[0],
        "cluster": answer.clusters[0] if answer.clusters else "",
        "pass_rate": round(answer.pass_rates[0], 6),
        "pass_rate_stddev": round(answer.pass_rate_stddevs[0], 6),
        "alpha": answer.alphas[0],
        "beta": answer.betas[0],
        "ema_mean": round(answer.ema_means[0], 6),
        "ema_variance": round(answer.ema_variances[0], 6),
        "visits": answer.visits[0],
        "rollouts": answer.rollouts[0],
        "last_policy_version": answer.last_policy_versions[0],
        "in_flight": answer.in_flight[0],
        "revision": answer.revision,
    }
    if as_json:
        plain = _plain(row)
        if past is not None:
            plain["history"] = {
                "visits": [_plain(visit) for visit in _visits(past)],
                **_plain({name: getattr(past, name) for name in _SCALARS}),
            }
        typer.echo(json.dumps(plain, ensure_ascii=False, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _plain(row).items():
        table.add_row(name.replace("_", " "), _said(name, value))
    console.print(table)
    if past is not None:
        _print_history(past)


_WIDE = 100
_SCALARS = (
    "from_revision",
    "from_time_seconds",
    "revision",
    "rollouts_counted",
    "visits_found",
    "events_read",
    "unattributed_reports",
)


def _plain(row: Mapping[str, object]) -> dict[str, object]:
    """Before the first rollout there is no average: NaN, which JSON cannot say."""
    return {name: None if value != value else value for name, value in row.items()}


def _said(name: str, value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "last_policy_version" and value == -1:
        return "never rolled out"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _visits(past: pb.GetPromptHistoryResponse) -> list[dict[str, object]]:
    columns: dict[str, Sequence[object]] = {
        "time_seconds": past.times_seconds,
        "policy_version": past.policy_versions,
        "trainer_id": past.trainer_ids,
        "lease_id": past.lease_ids,
        "source": [pb.Source.Name(source).removeprefix("SOURCE_").lower() for source in past.sources],
        "pass_rate": [round(rate, 6) for rate in past.pass_rates],
        "pass_rate_stddev": [round(stddev, 6) for stddev in past.pass_rate_stddevs],
        "quota": past.quotas,
        "rollouts": past.rollouts,
        "outcomes": past.outcomes,
        "successes": past.successes,
        "mean_reward": past.mean_rewards,
        "status": [pb.VisitStatus.Name(s).removeprefix("VISIT_STATUS_").lower() for s in past.statuses],
        "revision": past.revisions,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _print_history(past: pb.GetPromptHistoryResponse) -> None:
    told = sum(past.outcomes)
    begins = datetime.fromtimestamp(past.from_time_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    visits = len(past.times_seconds)
    console.print(
        f"\n{visits} visit{'' if visits == 1 else 's'} with {told} of the prompt's {past.rollouts_counted} counted"
        f" rollouts; the log goes back to {begins} UTC.",
    )
    console.print(visits_table(past, console.width))


def visits_table(past: pb.GetPromptHistoryResponse, width: int) -> Table:
    """A line per visit; in a narrow terminal to the minute, and without the trainers."""
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False)
    for name in ("when (UTC)", "policy", "trainer", "source", "believed", "quota", "right", "status"):
        if wide or name != "trainer":
            table.add_column(name, justify="right" if name in ("policy", "quota", "right") else "left")
    for row in _visits(past):
        when = datetime.fromtimestamp(float(str(row["time_seconds"])), UTC)
        in_batch = bool(row["lease_id"])
        table.add_row(
            when.strftime("%Y-%m-%d %H:%M:%S" if wide else "%Y-%m-%d %H:%M"),
            str(row["policy_version"]),
            *([str(row["trainer_id"]) or "-"] if wide else []),
            str(row["source"]).replace("_", " ") if in_batch else "-",
            f"{row['pass_rate']:.3f} ± {row['pass_rate_stddev']:.3f}" if in_batch else "-",
            str(row["quota"]) if in_batch else "-",
            f"{row['successes']} of {row['outcomes']}",
            str(row["status"]),
        )
    return table
