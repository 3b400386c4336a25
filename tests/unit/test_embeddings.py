"""Embeddings come in blocks, leave memory once a snapshot holds them, and come back unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from curriculum.v1.log_pb2 import SnapshotColumn
from sampler_service.curriculum.embeddings import EmbeddingColumn, is_away_candidate
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE
from sampler_service.curriculum.shared_evidence.prompt_features import _main_directions as main_directions
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from sampler_service.log.blocks import digest, lay_out
from tests.curriculum_runs import Run

DIM = 4096  # 512 rows are a block
ROWS = 512


def filled(size: int) -> tuple[EmbeddingColumn, NDArray[np.float16]]:
    vectors = np.random.default_rng(0).standard_normal((size, DIM)).astype(np.float16)
    column = EmbeddingColumn(DIM, 0)
    for start in range(0, size, 100):
        rows = np.arange(start, min(start + 100, size))
        column.fit(int(rows[-1]) + 1)
        column.put(rows, vectors[rows])
    return column, vectors


def in_a_snapshot(column: EmbeddingColumn) -> list[SnapshotColumn]:
    """The blocks as a snapshot's manifest names them."""
    layouts = lay_out({f"table.{name}": array for name, array in column.export().items()})
    return [
        SnapshotColumn(
            name=layout.name, dtype=layout.dtype, shape=layout.shape, blocks=map(digest, layout.blocks())
        )
        for layout in layouts
    ]


def test_full_blocks_leave_and_come_back() -> None:
    column, vectors = filled(2 * ROWS + 50)
    whole, blocks = column.digest(), column.export()
    column.release(in_a_snapshot(column))
    assert (column.away_rows, column.nbytes) == (2 * ROWS, 50 * DIM * 2)
    assert column.digest() == whole
    with pytest.raises(LookupError, match="sets `uses_embeddings`"):
        column[np.array([0])]
    column.bring([blocks["embeddings.000000"], blocks["embeddings.000001"]])
    np.testing.assert_array_equal(column[: 2 * ROWS + 50], vectors)
    assert column.digest() == whole


def test_rows_are_added_while_the_first_ones_are_away() -> None:
    column, vectors = filled(3 * ROWS)
    twin = EmbeddingColumn(DIM, 0)
    twin.fit(ROWS + 10)
    twin.put(np.arange(ROWS + 10), vectors[: ROWS + 10])
    blocks = twin.export()
    twin.release(in_a_snapshot(twin))
    twin.fit(3 * ROWS)
    twin.put(np.arange(ROWS + 10, 3 * ROWS), vectors[ROWS + 10 :])
    assert twin.digest() == column.digest()
    assert list(twin.export()) == ["embeddings.000001", "embeddings.000002"]
    np.testing.assert_array_equal(twin.held(ROWS, 3 * ROWS), vectors[ROWS:])
    twin.bring([blocks["embeddings.000000"]])
    np.testing.assert_array_equal(twin[np.array([3, ROWS + 20])], vectors[[3, ROWS + 20]])


def test_a_block_that_is_not_full_stays_in_memory() -> None:
    column, _ = filled(ROWS - 1)
    column.release(in_a_snapshot(column))
    assert column.away_rows == 0


def test_what_was_exported_does_not_change_when_rows_are_added() -> None:
    column, _ = filled(300)
    before = {name: array.copy() for name, array in column.export().items()}
    exported = column.export()
    column.fit(400)
    column.put(np.arange(300, 400), np.ones((100, DIM), dtype=np.float16))
    for name, array in before.items():
        np.testing.assert_array_equal(exported[name], array)


def test_a_column_is_restored_from_blocks_with_some_away_and_from_one_array_of_old() -> None:
    column, vectors = filled(2 * ROWS + 5)
    arrays, columns = column.export(), in_a_snapshot(column)
    left = [one for one in columns if is_away_candidate(one)]
    assert [one.name for one in left] == ["table.embeddings.000000", "table.embeddings.000001"]
    loaded = {name: array for name, array in arrays.items() if f"table.{name}" not in {c.name for c in left}}
    partly = EmbeddingColumn.restore(loaded, left, 2 * ROWS + 5)
    old = EmbeddingColumn.restore({"embeddings": vectors}, [], 2 * ROWS + 5)
    assert partly is not None
    assert old is not None
    assert partly.digest() == old.digest() == column.digest()
    assert partly.nbytes == 5 * DIM * 2
    assert EmbeddingColumn.restore({}, [], 7) is None


def test_the_digest_names_blocks_as_snapshots_do() -> None:
    column, _ = filled(ROWS)
    before = column.digest()
    column.release(in_a_snapshot(column))
    assert column.away_rows == ROWS
    assert column.digest() == before


def with_embeddings(method: str) -> Run:
    run = Run("uniform-grpo", {"estimator": {"shared_evidence": {method: {}}}})
    run.add(40, clusters=3, references=np.linspace(0, 1, 40))
    table = run.state.table
    table.set_embeddings(np.arange(40), np.random.default_rng(1).standard_normal((40, 6)).astype(np.float16))
    return run


class Unreadable(EmbeddingColumn):
    """Counts who reads it."""

    read = 0

    def __getitem__(self, rows):  # type: ignore[no-untyped-def]
        self.read += 1
        return super().__getitem__(rows)


@pytest.mark.parametrize("method", sorted(SHARED_EVIDENCE))
def test_a_method_says_whether_it_reads_embeddings(method: str) -> None:
    run = with_embeddings(method)
    table = run.state.table
    assert table.embeddings is not None
    table.embeddings.__class__ = Unreadable
    for step in range(3):
        run.step(np.linspace(0, 1, 40), 12, 96, step)
        run.advance(step + 1)
    reads = table.embeddings.read  # type: ignore[attr-defined]
    assert (reads > 0) == run.state.strategy.uses_embeddings


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_that_does_not_use_embeddings_never_reads_them(preset: str) -> None:
    if resolve(preset, {}).uses_embeddings:
        assert resolve(preset, {}).estimator.shared_evidence.uses_embeddings
        return
    run = Run(preset)
    run.add(40, clusters=3, references=np.linspace(0, 1, 40))
    table = run.state.table
    table.set_embeddings(np.arange(40), np.ones((40, 6), dtype=np.float16))
    assert table.embeddings is not None
    table.embeddings.__class__ = Unreadable
    for step in range(3):
        run.step(np.linspace(0, 1, 40), 12, 96, step)
        run.advance(step + 1, start_iteration=True)
    assert table.embeddings.read == 0  # type: ignore[attr-defined]


def test_exported_arrays_share_what_is_written_once() -> None:
    run = with_embeddings("none")
    one, other = run.state.export(), run.state.export()
    assert np.shares_memory(one["table.embeddings.000000"], other["table.embeddings.000000"])
    assert np.shares_memory(one["table.ids"], other["table.ids"])
    kept = CurriculumState.restore(one)
    digest_ = kept.digest()
    run.add(5_000)
    run.step(np.full(5_040, 0.5), 8, 64)
    assert kept.digest() == digest_


def test_wide_embeddings_have_the_directions_of_their_covariance() -> None:
    rng = np.random.default_rng(2)
    centred = rng.standard_normal((60, 1100)) * np.linspace(3, 0.1, 1100)
    centred -= centred.mean(axis=0)
    values, directions = main_directions(centred)
    _, sizes, exact = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(values[::-1][:20], sizes[:20] ** 2 / 59, rtol=1e-9)
    overlap = np.abs(np.einsum("dk,kd->k", directions[:, ::-1][:, :20], exact[:20]))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-8)


def test_k_means_keeps_embeddings_in_memory() -> None:
    assert not resolve("cures", {}).uses_embeddings
    assert resolve("cures", {"cluster_source": {"k_means": {}}}).uses_embeddings
