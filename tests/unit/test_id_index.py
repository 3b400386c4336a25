"""The hash index from prompt ids to rows, as it grows."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.id_index import IdIndex


def empty() -> tuple[IdIndex, list[bytes]]:
    kept: list[bytes] = []
    return IdIndex(kept.__getitem__, lambda start, stop: kept[start:stop]), kept


@pytest.mark.parametrize("at_once", [1, 7, 300, 5000])
def test_every_id_is_found_however_many_come_at_once(at_once: int) -> None:
    index, kept = empty()
    while len(kept) < 12_000:
        new = [f"id-{len(kept) + i}".encode() for i in range(at_once)]
        kept.extend(new)
        index.insert(new)
        some = np.unique(np.linspace(0, len(kept) - 1, 20, dtype=int))
        assert index.find([kept[i] for i in some]).tolist() == some.tolist()
    assert len(index) == len(kept)
    assert index.find(kept).tolist() == list(range(len(kept)))
    assert index.find([b"id--1", *(f"x{i}".encode() for i in range(200))]).tolist() == [-1] * 201


def test_an_index_of_all_ids_is_built_without_having_them_all_in_memory() -> None:
    kept = [f"id-{i}".encode() for i in range(50_000)]
    asked: list[int] = []

    def ids_between(start: int, stop: int) -> list[bytes]:
        asked.append(stop - start)
        return kept[start:stop]

    index = IdIndex(kept.__getitem__, ids_between)
    index.build(len(kept))
    assert sum(asked) == len(index) == len(kept)
    assert max(asked) < 20_000
    assert index.find(kept).tolist() == list(range(len(kept)))
    kept.append(b"one more")
    index.insert(kept[-1:])
    assert index.find([b"one more", b"none"]).tolist() == [50_000, -1]


def test_no_insertion_moves_more_than_a_few_ids_per_new_one() -> None:
    asked: list[int] = []
    kept: list[bytes] = []

    def ids_between(start: int, stop: int) -> list[bytes]:
        asked.append(stop - start)
        return kept[start:stop]

    index = IdIndex(kept.__getitem__, ids_between)
    for number in range(400):
        new = [f"{number}-{i}".encode() for i in range(100)]
        kept.extend(new)
        index.insert(new)
    assert index.find(kept).tolist() == list(range(len(kept)))
    # The first few arrays are smaller than one insertion.
    assert max(asked[3:]) <= 401


def test_an_id_takes_a_few_bytes_and_twice_as_many_while_ids_move() -> None:
    index, kept = empty()
    sizes = []
    for number in range(200):
        new = [f"{number}-{i}".encode() for i in range(500)]
        kept.extend(new)
        index.insert(new)
        sizes.append(index.nbytes / len(kept))
    assert max(sizes[20:]) < 26  # While it moves, both arrays are there.
    assert min(sizes[20:]) < 8.5
