"""The file of an exported curriculum: exact, readable by others, and never half believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.archive import ArchiveError, archive_chunks, read_archive, read_manifest
from sampler_service.archive.layout import CHECKSUM_KEY, FORMAT_KEY, MANIFEST_KEY, checksum, seal
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.state import CurriculumState
from sampler_service.replica.prompt_listing import prompt_states
from tests.curriculum_runs import Run

PROMPTS = 40


def trained(preset: str = "frontier", overrides: Mapping[str, Any] | None = None) -> Run:
    """A curriculum with every kind of column, some history, and a live lease."""
    run = Run(preset, overrides)
    rng = np.random.default_rng(3)
    ids = [f"prompt-{i}" if i % 3 else f"Aufgabe-ä{i}" for i in range(PROMPTS)]
    encoded = [id_.encode() for id_ in ids]
    run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(encoded),
            id_lengths=to_bytes(np.array([len(id_) for id_ in encoded]), "u2"),
            cluster_names=["algebra", "géométrie"],
            clusters=to_bytes(np.arange(PROMPTS) % 3 - 1, "i4"),
            reference_pass_rates=to_bytes(
                np.where(np.arange(PROMPTS) % 4, rng.random(PROMPTS), np.nan), "f4"
            ),
            embeddings=to_bytes(rng.standard_normal((PROMPTS, 5)), "f2"),
            embedding_dim=5,
        )
    )
    for step in range(4):
        run.step(rng.random(PROMPTS), 8, 64, step)
        run.advance(step + 1, kl=0.02)
    run.grant(run.planner.plan(4, 32), "still-open")
    run.report("", [0, 5], [[1.0, 0.0], [0.5]], norms=[[1.0, 2.0], [0.3]])
    return run


def written(state: CurriculumState, path: Path) -> Path:
    path.write_bytes(b"".join(archive_chunks(state)))
    return path


@pytest.mark.parametrize("preset", ["frontier", "cures", "vcrl", "dots", "gvm"])
def test_what_is_read_is_what_was_written_to_the_last_bit(preset: str, tmp_path: Path) -> None:
    run = trained(preset)
    _, arrays = read_archive(written(run.state, tmp_path / "c.parquet"))
    assert CurriculumState.restore(arrays).digest() == run.state.digest()


def test_an_empty_curriculum_is_a_file_too(tmp_path: Path) -> None:
    run = Run("cures")
    manifest, arrays = read_archive(written(run.state, tmp_path / "c.parquet"))
    assert manifest.prompts == 0
    assert CurriculumState.restore(arrays).digest() == run.state.digest()


def test_a_restored_state_goes_on_as_the_original_does(tmp_path: Path) -> None:
    run = trained()
    _, arrays = read_archive(written(run.state, tmp_path / "c.parquet"))
    other = Run()
    other.log = list(run.log)
    other.machine.state = CurriculumState.restore(arrays)
    for one in (run, other):
        one.report("still-open", [0, 1], [[1.0, 1.0], [0.0]], request_id="later")
        one.advance(7, start_iteration=True)
    assert other.state.digest() == run.state.digest()


def test_the_rows_are_those_of_list_prompt_states(tmp_path: Path) -> None:
    run = trained()
    table = pq.read_table(written(run.state, tmp_path / "c.parquet"))
    states = prompt_states(run.state, pb.ListPromptStatesRequest(page_size=1000))
    of_the_answer = ("next_page_token", "revision", "stale")
    fields = [f.name for f in states.DESCRIPTOR.fields if f.name not in of_the_answer]
    assert table.column_names[: len(fields)] == fields
    for name in fields:
        expected = list(getattr(states, name))
        np.testing.assert_array_equal(table.column(name).to_pylist(), expected, err_msg=name)
    assert table.column("embeddings").type == pa.list_(pa.float32(), 5)


def test_a_large_pool_comes_in_row_groups_and_small_pieces(tmp_path: Path) -> None:
    run = Run("uniform-grpo")
    run.add(150_000)
    pieces = list(archive_chunks(run.state))
    assert max(map(len, pieces)) <= 2**20
    path = tmp_path / "c.parquet"
    path.write_bytes(b"".join(pieces))
    assert pq.ParquetFile(path).metadata.num_row_groups >= 3
    _, arrays = read_archive(path)
    assert CurriculumState.restore(arrays).digest() == run.state.digest()


def test_the_manifest_says_what_the_file_is_about(tmp_path: Path) -> None:
    run = trained("cures")
    manifest = read_manifest(written(run.state, tmp_path / "c.parquet"))
    assert (manifest.curriculum_id, manifest.prompts, manifest.policy_version) == ("c", PROMPTS, 4)
    assert manifest.strategy["preset"] == "cures"


# -- faults --------------------------------------------------------------------------


def fault_of(path: Path) -> tuple[str, str]:
    with pytest.raises(ArchiveError) as caught:
        read_archive(path)
    return caught.value.fault, str(caught.value)


def test_a_file_of_another_kind_is_foreign(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("prompt_ids,pass_rates\n")
    assert fault_of(text)[0] == "foreign"
    empty = tmp_path / "empty"
    empty.touch()
    assert fault_of(empty)[0] == "foreign"


def test_parquet_of_another_program_is_foreign_even_if_it_was_ours_once(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    rewritten = tmp_path / "rewritten.parquet"
    pq.write_table(pq.read_table(path), rewritten)
    fault, message = fault_of(rewritten)
    assert fault == "foreign"
    assert "import the file that export wrote" in message


def with_metadata(path: Path, changes: dict[bytes, bytes], target: Path) -> Path:
    """The same rows under other metadata, sealed; the sections are lost, which is noticed last of all."""
    file = pq.ParquetFile(path)
    metadata = {k: v for k, v in file.metadata.metadata.items() if k != b"ARROW:schema"} | changes
    with pq.ParquetWriter(target, file.schema_arrow) as writer:
        writer.write_table(file.read())
        writer.add_key_value_metadata(metadata)
    data = target.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    target.write_bytes(data[:start] + seal(data[start:]) + data[start:])
    return target


def test_a_newer_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    fault, message = fault_of(with_metadata(path, {FORMAT_KEY: b"2"}, tmp_path / "newer.parquet"))
    assert fault == "newer"
    assert "has format 2; this release reads format 1: use a newer one" in message


def test_a_changed_manifest_is_noticed(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    text = (
        pq.ParquetFile(path)
        .metadata.metadata[MANIFEST_KEY]
        .replace(b'"policy_version":4', b'"policy_version":5')
    )
    changed = with_metadata(path, {MANIFEST_KEY: text}, tmp_path / "changed.parquet")
    assert fault_of(changed) == ("damaged", fault_of(changed)[1])
    assert "manifest does not match its checksum" in fault_of(changed)[1]


def test_a_changed_column_is_noticed(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    metadata = pq.ParquetFile(path).metadata.metadata
    manifest = json.loads(metadata[MANIFEST_KEY])
    manifest["columns"]["successes"] = "0" * 32
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    changes = {MANIFEST_KEY: text, CHECKSUM_KEY: checksum(text)}
    fault, message = fault_of(with_metadata(path, changes, tmp_path / "changed.parquet"))
    assert (fault, "column 'successes' does not match its digest" in message) == ("damaged", True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"shape": [2**50]}, "large"),
        ({"shape": [2**40, 2**40]}, "large"),
        ({"shape": [-1]}, "damaged"),
        ({"shape": None}, "damaged"),
        ({"dtype": "O"}, "damaged"),
        ({"dtype": "no such type"}, "damaged"),
        ({"offset": -5}, "damaged"),
        ({"stored_bytes": 2**62}, "damaged"),
        ({"stored_bytes": -1}, "damaged"),
        ({"embedding_dim": 10**15}, "large"),
        ({"prompts": 10**15}, "large"),
        ({"prompts": -1}, "damaged"),
    ],
    ids=str,
)
def test_a_manifest_made_up_to_do_harm_is_refused_before_anything_is_unpacked(
    change: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """Whoever makes the file makes its digests, too."""
    path = written(trained().state, tmp_path / "c.parquet")
    manifest = json.loads(pq.ParquetFile(path).metadata.metadata[MANIFEST_KEY])
    (manifest if set(change) <= set(manifest) else manifest["sections"][0]).update(change)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    changes = {MANIFEST_KEY: text, CHECKSUM_KEY: checksum(text)}
    with pytest.raises(ArchiveError) as caught:
        read_archive(with_metadata(path, changes, tmp_path / "changed.parquet"), most_bytes=2**30)
    assert caught.value.fault == fault, caught.value


def test_what_unpacks_to_more_than_there_is_room_for_is_not_unpacked(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    read_archive(path, most_bytes=2**24)
    with pytest.raises(ArchiveError, match="unpacks to") as caught:
        read_archive(path, most_bytes=1000)
    assert caught.value.fault == "large"


def test_a_file_that_was_cut_is_damaged(tmp_path: Path) -> None:
    path = written(trained().state, tmp_path / "c.parquet")
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert fault_of(path)[0] == "damaged"


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path) -> None:
    run = trained()
    path = written(run.state, tmp_path / "c.parquet")
    whole, right = path.read_bytes(), run.state.digest()
    refused = 0
    rng = np.random.default_rng(5)
    for place in rng.integers(0, len(whole), 400).tolist():
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :]
        )
        try:
            _, arrays = read_archive(path)
        except ArchiveError:
            refused += 1
        else:
            # It hit what an import does not read: statistics, or a column that is there for readers.
            assert CurriculumState.restore(arrays).digest() == right
    assert refused > 100
