"""The prompt table and its id index."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sampler_service.curriculum.errors import Exhausted
from sampler_service.curriculum.id_index import IdIndex
from sampler_service.curriculum.table import PromptTable
from tests.prompt_views import table_of


def test_rows_are_given_in_order_and_stay() -> None:
    table = table_of(3)
    rows, added = table.add([b"p1", b"new", b"p0"])
    assert rows.tolist() == [1, 3, 0]
    assert added.tolist() == [False, True, False]
    assert table.size == 4
    assert table.ids(np.array([3, 0])) == ["new", "p0"]


def test_an_id_that_comes_twice_in_one_call_is_added_once() -> None:
    table = PromptTable()
    rows, added = table.add([b"a", b"b", b"a"])
    assert rows.tolist() == [0, 1, 0]
    assert added.tolist() == [True, True, False]
    assert table.size == 2


def test_ids_that_contain_a_text_are_found_and_none_across_two_ids() -> None:
    table = PromptTable()
    ids = ["a", "aab", "ba", "b", "größe/aa", "", "aaa"]
    table.add([id_.encode() for id_ in ids if id_])
    ids.remove("")
    for text in ("a", "aa", "ab", "ba", "aaa", "ö", "b", "absent"):
        for rows in (np.arange(6), np.array([4, 1]), np.array([3]), np.arange(0)):
            found = table.contain(rows, text)
            assert found.tolist() == [text in ids[row] for row in rows], (text, rows)


def test_unknown_ids_are_minus_one() -> None:
    assert table_of(2).find(["p1", "nobody", ""]).tolist() == [1, -1, -1]


def test_ids_may_be_any_utf8() -> None:
    table = PromptTable()
    ids = ["é", "数学/1", "a b", "x" * 1024]
    table.add([i.encode() for i in ids])
    assert table.find(ids).tolist() == [0, 1, 2, 3]
    assert table.ids(np.arange(4)) == ids


def test_growth_keeps_what_was_there_and_new_rows_start_at_the_defaults() -> None:
    table = table_of(10)
    table.successes[3] = 2.5
    table.writable("reference_pass_rates")[4] = 0.25
    table.add([f"q{i}".encode() for i in range(5000)])
    assert table.successes[3] == 2.5
    assert table.column("reference_pass_rates")[4] == 0.25
    assert np.isnan(table.column("reference_pass_rates")[10:]).all()
    assert np.isnan(table.ema_means[: table.size]).all()
    assert (table.column("clusters") == -1).all()
    assert (table.column("leases") == -1).all()
    assert table.find(["p9", "q4999"]).tolist() == [9, 5009]


def test_an_optional_column_nobody_wrote_reads_as_its_default() -> None:
    table = table_of(3)
    assert np.isnan(table.column("weak_pass_rates")).all()
    assert not table.has("weak_pass_rates")
    table.writable("weak_pass_rates")[0] = 0.5
    assert table.has("weak_pass_rates")


def test_embeddings_are_kept_per_row() -> None:
    table = table_of(3)
    assert table.embedding_dim == 0
    table.set_embeddings(np.array([2], dtype=np.int32), np.ones((1, 4), dtype=np.float16))
    table.add([f"q{i}".encode() for i in range(500)])
    assert table.embedding_dim == 4
    assert table.embeddings is not None
    assert table.embeddings[2].tolist() == [1, 1, 1, 1]
    assert not table.embeddings[: table.size][[0, 1, 5]].any()


def test_restore_is_the_inverse_of_export() -> None:
    table = table_of(100)
    table.successes[5] = 1.5
    table.ema_means[7] = 0.3
    table.writable("strong_pass_rates")[1] = 0.75
    table.set_embeddings(np.array([2], dtype=np.int32), np.ones((1, 2), dtype=np.float16))
    twin = PromptTable.restore(table.export())
    assert twin.size == 100
    for name, array in table.export().items():
        np.testing.assert_array_equal(array, twin.export()[name], err_msg=name)
    assert twin.find(["p99", "p0", "no"]).tolist() == [99, 0, -1]
    rows, added = twin.add([b"p3", b"fresh"])
    assert rows.tolist() == [3, 100]
    assert added.tolist() == [False, True]


def test_a_snapshot_without_a_later_column_starts_it_at_its_default() -> None:
    arrays = table_of(4).export()
    del arrays["last_visits"]
    assert PromptTable.restore(arrays).last_visits.tolist() == [0, 0, 0, 0]


def test_export_is_a_copy() -> None:
    table = table_of(2)
    kept = table.export()
    table.successes[0] = 9
    assert kept["successes"][0] == 0


def test_ids_beyond_four_gibibytes_are_refused_and_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampler_service.curriculum.table._MAX_BLOB_BYTES", 8)
    table = PromptTable()
    table.add([b"1234"])
    with pytest.raises(Exhausted) as refusal:
        table.add([b"ok", b"12345"])
    assert refusal.value.reason == "IDS_TOO_LARGE"
    assert table.size == 1


def test_the_index_tells_ids_of_equal_hash_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IdIndex, "_hashes", lambda self, ids: np.full(len(ids), 5, dtype=np.int64))
    ids = [b"a", b"b", b"c"]
    index = IdIndex(ids.__getitem__, lambda start, stop: ids[start:stop])
    index.insert(ids)
    assert index.find([b"c", b"b", b"a", b"d"]).tolist() == [2, 1, 0, -1]


def test_a_prompt_costs_about_64_bytes_and_its_id() -> None:
    table = PromptTable()
    table.add([f"{i:08d}".encode() for i in range(100_000)])
    assert (table.nbytes - 8 * table.size) / table.size < 100


def index_bytes(count: int) -> int:
    ids = [b"%08d" % i for i in range(count)]
    index = IdIndex(ids.__getitem__, lambda start, stop: ids[start:stop])
    index.insert(ids[:100])
    if count > 100:
        index.insert(ids[100:])
    return index.nbytes


def test_growing_counts_what_is_used_and_a_reader_keeps_what_it_saw() -> None:
    table = table_of(100)
    table.writable("weak_pass_rates")[:100] = 0.5
    seen, before = table.successes, table.nbytes
    table.add([b"%08d" % i for i in range(100)])
    assert table.nbytes - before == 100 * (44 + 4 + 4 + 8) + index_bytes(200) - index_bytes(100)
    seen[0] = 7
    assert table.successes[0] == 0, "the columns were replaced by larger ones"
    assert (table.column("leases") == -1).all()
    assert np.isnan(table.column("ema_means")).all()
    assert table.column("weak_pass_rates")[:100].tolist() == [0.5] * 100
    assert np.isnan(table.column("weak_pass_rates")[100:]).all()


def test_ids_are_hashed_once_however_many_are_added_at_a_time() -> None:
    table, known = PromptTable(), 0
    for count in (1, 2000, 1, 40_000, 3):
        table.add([b"id-%d" % i for i in range(known, known + count)])
        assert table.unhashed == count
        known += count
        hashes = table.id_hashes()
        assert hashes.dtype == np.uint32
        assert hashes.tolist() == [zlib.crc32(b"id-%d" % i) for i in range(known)]
        assert table.unhashed == 0
    earlier = hashes.copy()
    table.add([b"another"])
    assert table.id_hashes()[:-1].tolist() == earlier.tolist() == hashes.tolist()
