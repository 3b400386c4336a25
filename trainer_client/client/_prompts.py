"""Prompts with their columns, cut into chunks that fit a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._status import invalid

__all__ = ["MAX_CHUNK_BYTES", "MAX_CHUNK_PROMPTS", "PromptColumns", "PromptUpload"]

MAX_CHUNK_BYTES = 2 * 1024 * 1024
MAX_CHUNK_PROMPTS = 8192
# Tag and length of a string field, at most (ids are far below 2 MiB).
_STRING_OVERHEAD_BYTES = 5


@dataclass(frozen=True, eq=False)
class PromptColumns:
    """Columns of prompts to add, checked against each other and kept, so that a retry can resend them."""

    prompt_ids: list[str]
    clusters: list[str]
    reference_pass_rates: npt.NDArray[np.float32] | None
    anchor_pass_rates: npt.NDArray[np.float32] | None
    embeddings: npt.NDArray[np.float32] | npt.NDArray[np.float16] | None

    @classmethod
    def make(
        cls,
        prompt_ids: Iterable[str],
        clusters: Iterable[str | None] | Mapping[str, Iterable[object]] | None,
        reference_pass_rates: Iterable[float | None] | None,
        anchor_pass_rates: Iterable[Iterable[float]] | npt.NDArray[np.floating] | None,
        embeddings: npt.ArrayLike | None,
    ) -> PromptColumns:
        """Checks lengths and shapes. Raises `InvalidArgumentError` naming the column."""
        if isinstance(prompt_ids, str | bytes):
            raise invalid("prompt_ids", "is a single string; give a list of ids")
        ids = list(prompt_ids)
        for index, prompt_id in enumerate(ids):
            if not isinstance(prompt_id, str):
                raise invalid(f"prompt_ids[{index}]", f"is {prompt_id!r}, not a string; use str(...)")
        if isinstance(clusters, str | bytes):
            raise invalid("clusters", "is a single string; give one label per prompt")
        if isinstance(clusters, Mapping):
            clusters = joined_labels(clusters)
        labels = [] if clusters is None else [label or "" for label in clusters]
        if clusters is not None and len(labels) != len(ids):
            raise invalid("clusters", f"has {len(labels)} entries for {len(ids)} prompts")
        return cls(
            prompt_ids=ids,
            clusters=labels,
            reference_pass_rates=_column(
                "reference_pass_rates",
                None
                if reference_pass_rates is None
                else [np.nan if rate is None else rate for rate in reference_pass_rates],
                (len(ids),),
            ),
            anchor_pass_rates=_column(
                "anchor_pass_rates",
                anchor_pass_rates
                if anchor_pass_rates is None or isinstance(anchor_pass_rates, np.ndarray)
                else [list(pair) for pair in anchor_pass_rates],
                (len(ids), 2),
            ),
            embeddings=_column("embeddings", embeddings, (len(ids), None), keep_half=True),
        )

    def chunks(self, curriculum_id: str, request_id: str, first: int = 1) -> Iterator[pb.AddPromptsRequest]:
        """Messages below 2 MiB and 8192 prompts; at least one, even for no prompts. O(prompts).

        Args:
            first: number of the chunk to begin with, from 1: those before it are there already.
        """
        starts = self._chunk_starts()
        for number, start in enumerate(starts):
            if number < first - 1:
                continue
            stop = starts[number + 1] if number + 1 < len(starts) else len(self.prompt_ids)
            rows = slice(start, stop)
            chunk = pb.AddPromptsRequest(prompt_ids=self.prompt_ids[rows], clusters=self.clusters[rows])
            if self.reference_pass_rates is not None:
                chunk.reference_pass_rates.extend(self.reference_pass_rates[rows].tolist())
            if self.anchor_pass_rates is not None:
                chunk.anchor_pass_rates.extend(self.anchor_pass_rates[rows].ravel().tolist())
            if self.embeddings is not None:
                half = self.embeddings.dtype == np.float16
                chunk.embeddings = (
                    self.embeddings[rows].astype("<f2" if half else "<f4", copy=False).tobytes()
                )
                chunk.embedding_dim = self.embeddings.shape[1]
                chunk.embedding_type = pb.EMBEDDING_TYPE_FLOAT16 if half else pb.EMBEDDING_TYPE_FLOAT32
            if number == first - 1:
                chunk.curriculum_id = curriculum_id
                chunk.request_id = request_id
                chunk.first_chunk = first if first > 1 else 0
            yield chunk

    def _chunk_starts(self) -> list[int]:
        numbers_bytes = 4 * (
            (self.reference_pass_rates is not None) + 2 * (self.anchor_pass_rates is not None)
        )
        if self.embeddings is not None:
            numbers_bytes += self.embeddings.itemsize * self.embeddings.shape[1]
        # Room for the names of curriculum and request, and the columns' own headers.
        limit = MAX_CHUNK_BYTES - 16 * 1024
        starts = [0]
        filled = 0
        for index, prompt_id in enumerate(self.prompt_ids):
            size = numbers_bytes + _STRING_OVERHEAD_BYTES + len(prompt_id.encode())
            if self.clusters:
                size += _STRING_OVERHEAD_BYTES + len(self.clusters[index].encode())
            if index > starts[-1] and (filled + size > limit or index - starts[-1] == MAX_CHUNK_PROMPTS):
                starts.append(index)
                filled = 0
            filled += size
        return starts


@dataclass(eq=False)
class PromptUpload:
    """Prompts on their way: after a broken stream the next one goes on where that one broke off."""

    columns: PromptColumns
    curriculum_id: str
    request_id: str
    begun: bool
    """Whether some may be there already: then `question` comes before `rest`."""

    def question(self) -> Iterator[pb.AddPromptsRequest]:
        """A stream that asks how many chunks are there."""
        yield pb.AddPromptsRequest(curriculum_id=self.curriculum_id, request_id=self.request_id)

    def rest(self, chunks_there: int) -> Iterator[pb.AddPromptsRequest]:
        """The stream of all chunks after those."""
        self.begun = True
        return self.columns.chunks(self.curriculum_id, self.request_id, chunks_there + 1)


def joined_labels(columns: Mapping[str, Iterable[object]]) -> list[str]:
    """One label per prompt from several columns: `{"type": …, "level": …}` gives `type_level` labels.

    A column without a value (None, "") is left out of the label. Raises `InvalidArgumentError` when the
    columns differ in length.
    """
    lists = {name: list(values) for name, values in columns.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        described = ", ".join(f"{name} has {len(values)} entries" for name, values in lists.items())
        raise invalid("clusters", f"columns differ in length: {described}")
    return [
        "_".join(str(part) for part in parts if part is not None and part != "")
        for parts in zip(*lists.values(), strict=True)
    ]


def _column(
    name: str, values: object, shape: tuple[int, ...] | tuple[int, None], *, keep_half: bool = False
) -> npt.NDArray[Any] | None:
    if values is None:
        return None
    try:
        half = keep_half and isinstance(values, np.ndarray) and values.dtype == np.float16
        column: npt.NDArray[Any] = np.asarray(values, dtype=np.float16 if half else np.float32)
    except (TypeError, ValueError) as error:
        raise invalid(name, f"is not an array of numbers: {error}") from None
    if shape[0] == 0 and column.size == 0:
        return None
    expected = " x ".join("dimensions" if size is None else str(size) for size in shape)
    fits = column.ndim == len(shape) and all(
        size is None or size == given for size, given in zip(shape, column.shape, strict=True)
    )
    if not fits:
        raise invalid(name, f"has shape {column.shape}; expected {expected}")
    return column
