"""`inspect`: what the service believes of one prompt."""

from __future__ import annotations

import json
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

__all__ = ["inspect"]


def inspect(
    curriculum: Annotated[
        str, typer.Argument(help="Id of the curriculum.", autocompletion=complete_curriculum)
    ],
    prompt: Annotated[str, typer.Argument(help="Id of the prompt.")],
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show one prompt: posterior, moving averages, visits, whether it is in flight."""
    request = pb.ListPromptStatesRequest(
        curriculum_id=curriculum, filter=pb.PromptFilter(prompt_ids=[prompt]), page_size=1
    )
    with service(target) as stub:
        answer = stub.ListPromptStates(request, timeout=timeout)
    row = {
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
        # Before the first rollout there is no average: NaN, which JSON cannot say.
        plain = {name: None if value != value else value for name, value in row.items()}
        typer.echo(json.dumps(plain, ensure_ascii=False, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in row.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
