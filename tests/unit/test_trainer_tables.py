"""Prompts from the user's own files: columns, templates, held-out files, and bad rows by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from trainer_client.config import TrainConfig, parse_config
from trainer_client.tasks import Pool, TaskPrompt
from trainer_client.tasks.build import build_pool
from trainer_client.tasks.row_sources import RowSource, dataset_rows, jsonl_rows, parquet_rows
from trainer_client.tasks.table import Columns, table_prompts
from trainer_client.tasks.verifiers import exact_match
from trainer_client.trainer_errors import ConfigError, DataError

pytestmark = pytest.mark.torch


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def source(path: Path, rows: list[Any]) -> RowSource:
    return jsonl_rows(write(path, rows))


def everything(pool: Pool) -> dict[str, TaskPrompt]:
    return {prompt.prompt_id: prompt for prompt in (*pool.train, *pool.held_out)}


def task_config(**task: Any) -> TrainConfig:
    return parse_config({"tasks": [{"verifier": "exact", **task}]})


def test_a_jsonl_file_becomes_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i}+1?", "answer": i + 1, "cluster": f"c{i % 2}"} for i in range(50)]
    rows.append({"prompt": "own id", "answer": "x", "id": "mine"})
    prompts = table_prompts(
        source(tmp_path / "data.jsonl", [*rows, ""]), exact_match, template="Q: {prompt}\nA:"
    )
    found = {p.prompt_id: p for p in prompts}
    assert len(found) == 51
    assert found["mine"].cluster == ""
    prompt = prompts[7]
    assert prompt.text == "Q: What is 7+1?\nA:"
    assert prompt.answer == "8"
    assert prompt.cluster == "c1"
    assert prompt.prompt_id.startswith("data/")


def test_bad_rows_are_named_with_their_line_numbers(tmp_path: Path) -> None:
    rows = source(
        tmp_path / "data.jsonl",
        [
            {"prompt": "fine", "answer": "1"},
            "{not json",
            {"prompt": "no answer"},
            "",
            {"prompt": "  ", "answer": "1"},
            {"prompt": ["list"], "answer": "1"},
            {"prompt": "fine", "answer": "1"},
            "[1]",
        ],
    )
    with pytest.raises(DataError) as caught:
        table_prompts(rows, exact_match)
    message = str(caught.value)
    assert "6 bad row(s)" in message
    for part in (
        "line 2: not JSON",
        "line 3: column 'answer' is missing",
        "line 5: column 'prompt' is empty",
        "line 6: column 'prompt' must be text",
        "line 7: same id",
        "line 8: expected an object",
    ):
        assert part in message


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_file_that_is_absent_empty_or_not_text_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.jsonl"):
        table_prompts(jsonl_rows(path), exact_match)


def test_columns_have_the_names_the_settings_say_and_may_be_nested(tmp_path: Path) -> None:
    rows = [
        {
            "question": [{"role": "user", "content": f"{i}?"}],
            "truth": {"answer": f"long reasoning #### {i}"},
            "extra": {"level": 3},
            "uid": 100 + i,
            "weak": 0.1,
            "strong": 0.75,
        }
        for i in range(3)
    ]
    pool = build_pool(
        task_config(
            type="jsonl",
            path=str(write(tmp_path / "data.jsonl", rows)),
            prompt_column="question",
            answer_column="truth.answer",
            answer_pattern="#### (.+)",
            cluster_column="extra.level",
            id_column="uid",
            reference_pass_rate_column="weak",
            anchor_columns=["weak", "strong"],
            held_out_share=0.0,
            system_prompt="Be brief.",
        ).tasks
    )
    prompt = everything(pool)["102"]
    assert prompt.messages == (("user", "2?"),)
    assert (prompt.text, prompt.answer, prompt.cluster) == ("2?", "2", "3")
    assert prompt.reference_pass_rate == 0.1
    assert prompt.anchor_pass_rates == (0.1, 0.75)
    assert prompt.system_prompt == "Be brief."


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"prompt": "p", "answer": "1"}, Columns(cluster="kind"), "cluster_column 'kind' is in no row"),
        ({"prompt": "p", "answer": "1"}, Columns(anchors=("w", "s")), "anchor_columns 'w' is in no row"),
        ({"prompt": "p", "answer": "1", "r": 7}, Columns(reference_pass_rate="r"), "between 0 and 1, got 7"),
        (
            {"prompt": [{"role": "assistant", "content": "hello"}], "answer": "1"},
            Columns(),
            "last message must be the user's",
        ),
        ({"prompt": [{"role": "robot", "content": "hello"}], "answer": "1"}, Columns(), "role of"),
    ],
)
def test_a_column_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, row: dict[str, Any], columns: Columns, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table_prompts(source(tmp_path / "data.jsonl", [row]), exact_match, columns)


def test_an_answer_that_does_not_fit_its_pattern_is_a_bad_row(tmp_path: Path) -> None:
    rows = source(tmp_path / "data.jsonl", [{"prompt": "p", "answer": "no mark"}])
    with pytest.raises(DataError, match=r"line 1: column 'answer' does not hold answer_pattern"):
        table_prompts(rows, exact_match, answer_pattern="#### (.+)")
    with pytest.raises(ConfigError, match="not a regular expression"):
        table_prompts(rows, exact_match, answer_pattern="(")
    with pytest.raises(ConfigError, match="must have one group, has 0"):
        table_prompts(rows, exact_match, answer_pattern="x")


def test_test_cases_reach_the_verifier_as_json(tmp_path: Path) -> None:
    cases = [{"input": "1", "output": "2"}]
    prompts = table_prompts(
        source(tmp_path / "data.jsonl", [{"prompt": "code", "answer": cases}]),
        lambda completion, answer: float(json.loads(answer) == cases),
    )
    assert prompts[0].reward("anything") == 1.0


def test_a_parquet_file_and_a_jsonl_file_with_the_same_rows_give_the_same_prompts(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i}+1=", "answer": str(i + 1), "cluster": "add", "extra": {"a": i}} for i in range(9)
    ]
    write(tmp_path / "data.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    pools = [
        build_pool(task_config(type=kind, path=str(tmp_path / f"data.{kind}"), id_column="extra.a").tasks)
        for kind in ("jsonl", "parquet")
    ]
    by_text = [
        {p.prompt_id: (p.text, p.answer, p.cluster) for p in everything(pool).values()} for pool in pools
    ]
    assert by_text[0] == by_text[1]
    assert sorted(by_text[0]) == [str(i) for i in range(9)]


def test_bad_rows_of_a_parquet_file_are_named_with_their_row_numbers(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": None, "answer": "1"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    with pytest.raises(DataError, match="row 2: column 'prompt' is missing"):
        table_prompts(parquet_rows(tmp_path / "data.parquet"), exact_match)
    (tmp_path / "text.parquet").write_text("prompt,answer")
    for name in ("text.parquet", "absent.parquet"):
        with pytest.raises(DataError, match=name):
            table_prompts(parquet_rows(tmp_path / name), exact_match)


def test_the_datasets_library_reads_what_it_saved_and_splits_it(tmp_path: Path) -> None:
    splits = {
        name: datasets.Dataset.from_list([{"prompt": f"{name} {i}", "answer": str(i)} for i in range(count)])
        for name, count in (("train", 6), ("test", 3))
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    pool = build_pool(task_config(type="dataset", path=str(tmp_path / "saved"), held_out_split="test").tasks)
    assert sorted(prompt.text for prompt in pool.train) == [f"train {i}" for i in range(6)]
    assert sorted(prompt.text for prompt in pool.held_out) == [f"test {i}" for i in range(3)]


def test_the_datasets_library_reads_a_folder_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder / "train.jsonl", [{"prompt": f"p{i}", "answer": "1"} for i in range(5)])
    prompts = table_prompts(dataset_rows(str(folder), None, "train[:3]"), exact_match)
    assert [prompt.text for prompt in prompts] == ["p0", "p1", "p2"]
    with pytest.raises(DataError, match=r"split 'validation'.*cannot be read"):
        table_prompts(dataset_rows(str(folder), None, "validation"), exact_match)


def test_a_hub_name_that_is_not_here_is_an_error_that_says_how_to_ask_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE=0"):
        table_prompts(dataset_rows("nobody/no-such-data", None, "train"), exact_match)


def test_a_file_of_held_out_prompts_is_never_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"prompt": f"p{i}", "answer": "1"} for i in range(5)])
    test = write(tmp_path / "test.jsonl", [{"prompt": f"q{i}", "answer": "1"} for i in range(4)])
    task = {"type": "jsonl", "path": str(train), "held_out_path": str(test)}
    pool = build_pool(task_config(**task).tasks)
    assert (len(pool.train), len(pool.held_out)) == (5, 4)

    write(test, [{"prompt": "p3", "answer": "1"}])
    with pytest.raises(DataError, match="both trained on and held out"):
        build_pool(task_config(**task).tasks)
    write(train, [{"prompt": "p0", "answer": "1", "id": 0}])
    write(test, [{"prompt": "q0", "answer": "1", "id": 0}])
    with pytest.raises(DataError, match=r"id '0'.*id_column: null"):
        build_pool(task_config(**task).tasks)


@pytest.mark.parametrize("column", ["prompt", "answer"])
def test_a_value_that_a_data_frame_lacked_is_missing(tmp_path: Path, column: str) -> None:
    row = {"prompt": "1+1=", "answer": "2", column: float("nan")}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"line 1: column '{column}' is missing"):
        table_prompts(jsonl_rows(tmp_path / "data.jsonl"), exact_match)
