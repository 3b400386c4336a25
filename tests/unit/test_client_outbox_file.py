"""The outbox file is readable after a crash at any byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_client.client import _outbox_file
from trainer_client.client._outbox import Outbox
from trainer_client.client._outbox_file import OutboxFile
from trainer_client.exceptions import OutboxFileError

PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


def contents(outbox: Outbox) -> list[bytes]:
    found = []
    while (head := outbox.head()) is not None:
        found.append(head[1])
        outbox.remove(head[0])
    return found


@given(PAYLOADS, st.data())
def test_a_file_cut_at_any_byte_gives_back_the_reports_before_the_cut(payloads, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox"
        file = OutboxFile(path)
        ends = [path.stat().st_size]
        for sequence, payload in enumerate(payloads, start=1):
            file.append(sequence, payload)
            ends.append(path.stat().st_size)
        file.close()
        cut = data.draw(st.integers(0, ends[-1]))
        with path.open("r+b") as writer:
            writer.truncate(cut)
        whole = sum(end <= cut for end in ends[1:])
        outbox = Outbox(path)
        assert list(outbox._pending.values()) == payloads[:whole]
        # And it goes on from there, over another restart.
        outbox.append(b"next")
        outbox.close()
        again = Outbox(path)
        assert contents(again) == [*payloads[:whole], b"next"]
        again.close()


@given(PAYLOADS, st.data())
def test_a_flipped_byte_is_never_read_as_a_report(payloads, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox"
        file = OutboxFile(path)
        for sequence, payload in enumerate(payloads, start=1):
            file.append(sequence, payload)
        file.close()
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(8, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        outbox = Outbox(path)
        found = contents(outbox)
        outbox.close()
        assert found == payloads[: len(found)]
        assert len(found) < len(payloads)
        assert path.with_name("outbox.torn").exists()


@given(PAYLOADS, st.data())
def test_acknowledged_reports_do_not_come_back_and_the_order_stays(payloads, data):
    done = data.draw(st.sets(st.sampled_from(range(len(payloads)))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox"
        outbox = Outbox(path)
        places = [outbox.append(payload) for payload in payloads]
        for index in done:
            outbox.remove(places[index])
        outbox.close()
        again = Outbox(path)
        assert contents(again) == [p for i, p in enumerate(payloads) if i not in done]
        again.close()


def test_a_file_of_done_reports_is_rewritten_small(tmp_path, monkeypatch):
    monkeypatch.setattr(_outbox_file, "_COMPACTION_BYTES", 1000)
    path = tmp_path / "outbox"
    outbox = Outbox(path)
    keep = outbox.append(b"first")
    for _ in range(100):
        outbox.remove(outbox.append(b"x" * 100))
    assert path.stat().st_size < 2500
    outbox.append(b"last")
    outbox.close()
    again = Outbox(path)
    assert again.head() == (keep, b"first")
    assert contents(again) == [b"first", b"last"]
    again.close()


def test_a_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not an outbox")
    with pytest.raises(OutboxFileError, match="is not an outbox"):
        OutboxFile(path)
    assert path.read_text() == "not an outbox"
    path.unlink()
    OutboxFile(path).close()
