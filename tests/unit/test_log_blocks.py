import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler_service.log.blocks import (
    BLOCK_BYTES,
    ColumnLayout,
    allocate,
    block_places,
    decode,
    digest,
    encode,
    lay_out,
)
from sampler_service.log.errors import SnapshotCorruptError, SnapshotFormatError

DTYPES = ["?", "<i1", "<i4", ">i8", "<u2", "<f2", "<f4", ">f8", "<c8", "S5", "<U3"]


def there_and_back(layout: ColumnLayout) -> np.ndarray:
    column = allocate(layout.name, layout.dtype, layout.shape)
    for number, (raw, place) in enumerate(zip(layout.blocks(), block_places(column), strict=True)):
        decode(encode(raw), digest(raw), place, layout.name, number)
    return column


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=40))
    )
)
def test_every_plain_column_comes_back_as_it_was(column: np.ndarray):
    (layout,) = lay_out({"c": column})
    back = there_and_back(layout)
    assert back.shape == column.shape
    assert back.dtype == column.dtype.newbyteorder("<")
    assert back.tobytes() == column.astype(back.dtype).tobytes()


@pytest.mark.parametrize("length", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 17])
def test_columns_around_the_block_size_come_back(length: int):
    column = np.random.default_rng(0).integers(0, 255, length, dtype=np.uint8)
    (layout,) = lay_out({"c": column})
    assert len(list(layout.blocks())) == -(-length // BLOCK_BYTES)
    assert np.array_equal(there_and_back(layout), column)


def test_a_column_that_is_not_contiguous_comes_back():
    column = np.arange(100_000, dtype=np.int32).reshape(1000, 100)[::2, ::3]
    (layout,) = lay_out({"c": column})
    assert np.array_equal(there_and_back(layout), column)


def test_zeros_are_compressed_and_noise_is_not():
    zeros = memoryview(bytes(BLOCK_BYTES))
    noise = memoryview(np.random.default_rng(0).bytes(BLOCK_BYTES))
    assert len(encode(zeros)) < BLOCK_BYTES // 50
    assert len(encode(noise)) == BLOCK_BYTES + 1


@pytest.mark.parametrize("raw", [bytes(1000), np.random.default_rng(1).bytes(1000)])
def test_any_flipped_bit_is_noticed_and_the_place_is_named(raw: bytes):
    stored = encode(memoryview(raw))
    refusals = []
    for position in range(1, len(stored)):
        torn = bytearray(stored)
        torn[position] ^= 0x10
        into = memoryview(bytearray(len(raw)))
        refused = False
        try:
            decode(bytes(torn), digest(raw), into, "alphas", 7)
        except SnapshotCorruptError as error:
            refused = True
            refusals.append((error.column, error.block))
        # Some bits of a zlib stream carry nothing; then the content must be right.
        assert refused or bytes(into) == raw
    assert set(refusals) == {("alphas", 7)}
    assert len(refusals) > 0.8 * (len(stored) - 1)


def test_a_torn_block_is_noticed():
    stored = encode(memoryview(np.random.default_rng(1).bytes(1000)))
    with pytest.raises(SnapshotCorruptError, match="has 499 bytes instead of 1000"):
        decode(stored[:500], b"", memoryview(bytearray(1000)), "a", 0)


def test_a_codec_of_a_newer_release_is_a_matter_of_format():
    with pytest.raises(SnapshotFormatError, match="codec 09"):
        decode(b"\x09xyz", b"", memoryview(bytearray(3)), "a", 0)


@pytest.mark.parametrize("column", [np.array([object()]), np.zeros(2, [("a", "<i4")]), np.zeros(1, "M8[s]")])
def test_columns_that_are_not_plain_are_refused_by_name(column: np.ndarray):
    with pytest.raises(ValueError, match="column 'odd'"):
        lay_out({"odd": column})


@pytest.mark.parametrize(("dtype", "shape"), [("O", [1]), ("nonsense", [1]), ("<f4", [-1]), ("<f4", [2**62])])
def test_a_stored_column_that_makes_no_sense_is_refused(dtype: str, shape: list[int]):
    with pytest.raises(SnapshotFormatError, match="column 'odd'"):
        allocate("odd", dtype, shape)
