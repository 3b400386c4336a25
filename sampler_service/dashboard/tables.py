"""Parts of a summary, and pages of prompts, as CSV."""

import csv
import io
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard.reader import CurriculumReader

PROMPT_COLUMNS = {
    "prompt_id": "prompt_ids",
    "cluster": "clusters",
    "pass_rate": "pass_rates",
    "pass_rate_stddev": "pass_rate_stddevs",
    "alpha": "alphas",
    "beta": "betas",
    "ema_mean": "ema_means",
    "ema_variance": "ema_variances",
    "visits": "visits",
    "rollouts": "rollouts",
    "last_policy_version": "last_policy_versions",
    "in_flight": "in_flight",
}
"""Name of a column in a row, and of the column it comes from in ListPromptStatesResponse."""

PAGE_SIZE = 1000


def _histogram(summary: pb.Summary) -> Iterable[Sequence[object]]:
    yield ("pass_rate_from", "pass_rate_to", "prompts")
    histogram = summary.difficulty_histogram
    yield from zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
    yield ("unseen", "", histogram.unseen)


def _history(summary: pb.Summary) -> Iterable[Sequence[object]]:
    history = summary.history
    bins = history.histogram_bins
    names = [field.name for field in history.DESCRIPTOR.fields if not field.name.startswith("histogram_")]
    columns = [getattr(history, name) for name in names]
    yield (*(name.removesuffix("s") for name in names), *(f"histogram_bin_{i}" for i in range(bins)))
    for point in range(len(history.times_seconds)):
        row = [column[point] if point < len(column) else "" for column in columns]
        yield (*row, *history.histogram_counts[point * bins : (point + 1) * bins])


def _calibration(summary: pb.Summary) -> Iterable[Sequence[object]]:
    calibration = summary.calibration
    yield ("predicted", "observed", "predictions")
    yield from zip(calibration.bin_predicted, calibration.bin_observed, calibration.bin_counts, strict=False)


def _estimators(summary: pb.Summary) -> Iterable[Sequence[object]]:
    yield ("estimator", "policy_version", "predictions", "brier", "log_loss", "spearman")
    for one in summary.estimators:
        columns = (one.policy_versions, one.predictions, one.briers, one.log_losses, one.spearmans)
        for point in zip(*columns, strict=True):
            yield (one.estimator, *point)


def _quota_profile(summary: pb.Summary) -> Iterable[Sequence[object]]:
    profile = summary.quota_profile
    yield ("pass_rate_from", "pass_rate_to", "mean_quota", "prompts")
    yield from zip(profile.edges, profile.edges[1:], profile.mean_quotas, profile.prompts, strict=False)


def _clusters(summary: pb.Summary) -> Iterable[Sequence[object]]:
    yield ("cluster", "prompts", "pass_rate", "groups", "mixed_groups", "rollouts", "recent_share")
    for c in summary.clusters:
        yield (c.cluster, c.prompts, c.pass_rate, c.groups, c.mixed_groups, c.rollouts, c.recent_share)


def _uncertainty(summary: pb.Summary) -> Iterable[Sequence[object]]:
    yield ("stddev_from", "stddev_to", "prompts")
    uncertainty = summary.uncertainty
    yield from zip(uncertainty.edges, uncertainty.edges[1:], uncertainty.counts, strict=False)


def _shadows(summary: pb.Summary) -> Iterable[Sequence[object]]:
    fields = [f.name for f in pb.StrategyReplay.DESCRIPTOR.fields if f.name != "calibration"]
    scores = ("predictions", "brier", "log_loss", "spearman", "spearman_groups")
    yield (*fields, *scores)
    for one in summary.shadows.strategies:
        yield (
            *(getattr(one, name) for name in fields),
            *(getattr(one.calibration, name) for name in scores),
        )


def _shadow_series(summary: pb.Summary) -> Iterable[Sequence[object]]:
    yield ("strategy", "policy_version", "brier", "expected_mixed_share")
    for one in summary.shadows.series:
        for point in zip(one.policy_versions, one.briers, one.expected_mixed_shares, strict=True):
            yield (one.strategy, *point)


SUMMARY_TABLES: dict[str, Callable[[pb.Summary], Iterable[Sequence[object]]]] = {
    "calibration": _calibration,
    "clusters": _clusters,
    "estimators": _estimators,
    "histogram": _histogram,
    "history": _history,
    "quota_profile": _quota_profile,
    "shadow_series": _shadow_series,
    "shadows": _shadows,
    "uncertainty": _uncertainty,
}


VISIT_COLUMNS = {
    "time_seconds": "times_seconds",
    "revision": "revisions",
    "lease_id": "lease_ids",
    "trainer_id": "trainer_ids",
    "policy_version": "policy_versions",
    "pass_rate": "pass_rates",
    "pass_rate_stddev": "pass_rate_stddevs",
    "probability": "probabilities",
    "quota": "quotas",
    "rollouts": "rollouts",
    "outcomes": "outcomes",
    "successes": "successes",
    "mean_reward": "mean_rewards",
    "report_time_seconds": "report_times_seconds",
}
"""Name of a column in a row, and of the column it comes from in GetPromptHistoryResponse."""


def visits(history: pb.GetPromptHistoryResponse) -> Iterable[Sequence[object]]:
    """One prompt's visits, the names of the columns first."""
    yield (*VISIT_COLUMNS, "source", "status")
    sources = [pb.Source.Name(source) for source in history.sources]
    statuses = [pb.VisitStatus.Name(status) for status in history.statuses]
    columns = [getattr(history, column) for column in VISIT_COLUMNS.values()]
    yield from zip(*columns, sources, statuses, strict=True)


_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠].*[(|!]", re.DOTALL)
"""What a spreadsheet would run: a formula that calls something or looks elsewhere. `-3+4` is a prompt's id."""


def write_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as RFC 4180 text. Ids and names are chosen by callers: an apostrophe keeps formulas from being run."""
    text = io.StringIO()
    csv.writer(text).writerows(map(_harmless, rows))
    return text.getvalue()


def _harmless(row: Sequence[object]) -> Sequence[object]:
    return [f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row]


def prompt_rows(page: pb.ListPromptStatesResponse) -> Iterable[Sequence[object]]:
    """The page's columns turned into rows, in the order of `PROMPT_COLUMNS`."""
    return zip(*(getattr(page, column) for column in PROMPT_COLUMNS.values()), strict=True)


async def prompts_csv(
    reader: CurriculumReader,
    request: pb.ListPromptStatesRequest,
    first: pb.ListPromptStatesResponse,
) -> AsyncIterator[str]:
    """All pages from `first` on, a page at a time: memory does not grow with the number of prompts."""
    yield write_csv([tuple(PROMPT_COLUMNS)])
    page = first
    while True:
        yield write_csv(prompt_rows(page))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
        page = await reader.prompt_states(request)
