import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler_service.log.revision import (
    START,
    is_after,
    latest,
    next_revision,
    parse_revision,
    revision_millis,
)

numbers = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "a-b", "1-2-3", " 1-2", "1-+2", "٣-٤", "-", "18446744073709551616-0"]
)
def test_what_is_no_revision_is_refused_and_quoted(text: str):
    with pytest.raises(ValueError, match="revision") as refusal:
        parse_revision(text)
    assert repr(text) in str(refusal.value)


@given(numbers, numbers, numbers, numbers)
def test_revisions_compare_as_numbers_not_as_text(a: int, b: int, c: int, d: int):
    assert is_after(f"{a}-{b}", f"{c}-{d}") == ((a, b) > (c, d))


@given(numbers, numbers)
def test_the_next_revision_is_after_and_nothing_lies_between(millis: int, sequence: int):
    millis = min(millis, 2**64 - 2)
    following = parse_revision(next_revision(f"{millis}-{sequence}"))
    assert following > (millis, sequence)
    assert following in [(millis, sequence + 1), (millis + 1, 0)]


def test_the_latest_of_some_is_found_and_the_start_is_before_all():
    assert latest("9-0", "10-0", START) == "10-0"
    assert revision_millis("1700000000123-4") == 1_700_000_000_123
