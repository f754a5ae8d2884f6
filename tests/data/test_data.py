"""Prompts from files and the `datasets` package."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.config import SourceConfig
from depo.data import load_prompts
from depo.data.layouts import detect_layout
from depo.data.templates import fill_template
from depo.types.errors import ConfigError, DataError
from depo.types.records import Prompt

SAMPLES = Path(__file__).parent
SHARED = Path(os.environ.get("DEPO_SHARED", Path(__file__).parents[3] / "shared" / "data"))

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip())
ANSWERS = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers(), max_size=3),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"question": TEXTS, "answer": ANSWERS},
        optional={"extra": ANSWERS, "nested": st.dictionaries(TEXTS, ANSWERS)},
    ),
    min_size=1,
    max_size=8,
)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], end: str = "\n") -> str:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + end for row in rows),
        encoding="utf-8",
        newline="",
    )
    return str(path)


def load(path: str | Path, **settings: Any) -> list[Prompt]:
    return load_prompts([SourceConfig(path=str(path), **settings)])


@settings(deadline=None)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_every_row_comes_back_untouched_and_in_order(
    rows: list[dict[str, Any]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts = load(write_jsonl(tmp_path_factory.mktemp("rows") / "pool.jsonl", rows, end))
    seen: dict[str, dict[str, Any]] = {}
    for (
        row
    ) in rows:  # what is the same prompt: same text, same answer in JSON (True is not 1 there)
        seen.setdefault(json.dumps([row["question"], row["answer"]]), row)
    assert [
        (prompt.text, prompt.answer, dict(prompt.columns), prompt.source) for prompt in prompts
    ] == [(row["question"], row["answer"], row, "pool") for row in seen.values()]
    assert len({prompt.id for prompt in prompts}) == len(prompts)


@settings(deadline=None)
@given(
    position=st.integers(0, 4),
    bad=st.sampled_from(
        [
            ('{"question": "1+1"', "JSON"),
            ('["1+1", "2"]', "list"),
            ('{"question": "1+1", "answer": NaN}', "NaN"),
            ('{"question": "1+1", "answer": 1e999}', "finite"),
            ('{"question": "1+1"}', "answer"),
            ('{"answer": "2"}', "question"),
            ('{"question": "  ", "answer": "2"}', "empty"),
            ('{"question": 7, "answer": "2"}', "question"),
            ('{"question": [], "answer": "2"}', "question"),
            ('{"question": null, "answer": "2"}', "question"),
            ('{"question": "1+1", "answer": null}', "answer"),
            ('{"question": [{"role": "user"}], "answer": "2"}', r"question\[0\].content"),
            ('{"question": [{"role": "user", "content": " "}], "answer": "2"}', "without any text"),
            ('{"question": "half \\ud800", "answer": "2"}', "surrogate"),
            ("[" * 100_000, "JSON"),
        ]
    ),
)
def test_a_bad_line_is_named_and_nothing_is_loaded(
    position: int, bad: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [json.dumps({"question": f"{n}+1", "answer": n + 1}) for n in range(4)]
    path = tmp_path_factory.mktemp("bad") / "pool.jsonl"
    path.write_text("\n".join([*lines[:position], bad[0], *lines[position:]]))
    with pytest.raises(DataError, match=rf"pool.jsonl, line {position + 1}: .*{bad[1]}"):
        load(path)


def test_bytes_that_are_no_text_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "x"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line 1: not UTF-8"):
        load(tmp_path / "latin.jsonl")
    (tmp_path / "marked.jsonl").write_bytes('\ufeff{"question": "café", "answer": "x"}\n'.encode())
    assert load(tmp_path / "marked.jsonl")[0].text == "café"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "not found"),
        ("empty.jsonl", b"", "got 0 rows"),
        ("table.csv", b"question,answer\n", "expected one of .jsonl"),
        ("damaged.parquet", b"PAR1 but not really PAR1", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        load(tmp_path / name)


def test_count_takes_the_first_rows_and_refuses_to_take_fewer(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "pool.jsonl", [{"question": str(n), "answer": n} for n in range(5)]
    )
    assert [prompt.answer for prompt in load(path, count=3)] == [0, 1, 2]
    with pytest.raises(DataError, match="got 5 rows, expected 6"):
        load(path, count=6)


def test_duplicates_are_merged_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"question": text, "answer": answer}
        for text, answer in [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 1)]
    ]
    path = write_jsonl(tmp_path / "pool.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        assert [(prompt.text, prompt.answer) for prompt in load(path)] == [
            ("a", 1),
            ("b", 1),
            ("a", 2),
        ]
    assert "merged 3 duplicate prompts" in caplog.text
    assert "'a'" in caplog.text
    other = SourceConfig(path=path, name="other")
    assert len(load_prompts([SourceConfig(path=path), other])) == 6, (
        "the same row of another source is another prompt"
    )


def in_three_layouts(rows: list[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    chats = [
        [{"role": "system", "content": "Think."}, {"role": "user", "content": question}]
        for question, _ in rows
    ]
    return {
        "plain": [{"problem": question, "label": answer, "level": 3} for question, answer in rows],
        "trl": [
            {"prompt": chat, "solution": answer, "level": 3}
            for chat, (_, answer) in zip(chats, rows, strict=True)
        ],
        "verl": [
            {
                "data_source": "contest",
                "prompt": chat,
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": answer},
                "extra_info": {"split": "train", "index": index, "tags": ["a", "b"][: index + 1]},
            }
            for index, (chat, (_, answer)) in enumerate(zip(chats, rows, strict=True))
        ],
    }


@pytest.mark.parametrize("layout", ["plain", "trl", "verl"])
@pytest.mark.parametrize("writer", ["json", "pyarrow", "datasets json", "datasets parquet"])
def test_files_of_trl_and_verl_round_trip_with_nested_columns_intact(
    layout: str, writer: str, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    tasks = [("What is $1+1$?", "2"), ("Name a prime.\nAny.", "\\frac{7}{1}")]
    rows = in_three_layouts(tasks)[layout]
    path = tmp_path / ("pool.parquet" if "json" not in writer else "pool.jsonl")
    if writer == "json":
        write_jsonl(path, rows)
    elif writer == "pyarrow":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif writer == "datasets json":
        datasets.Dataset.from_list(rows).to_json(path)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    assert detect_layout(rows[0]) == layout
    for prompts in (load(path), load(path, layout=layout)):
        assert [dict(prompt.columns) for prompt in prompts] == rows
        assert [prompt.answer for prompt in prompts] == [answer for _, answer in tasks]
        assert {prompt.source for prompt in prompts} == {"contest" if layout == "verl" else "pool"}
        if layout == "plain":
            assert [(prompt.text, prompt.messages) for prompt in prompts] == [
                (question, None) for question, _ in tasks
            ]
        else:
            assert [prompt.text for prompt in prompts] == [
                f"Think.\n\n{question}" for question, _ in tasks
            ]
            assert [list(prompt.messages or ()) for prompt in prompts] == [
                row["prompt"] for row in rows
            ]


def test_bad_parquet_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"question": ["1", "2", "3"], "answer": [1.0, 2.0, float("nan")]}), path
    )
    with pytest.raises(DataError, match=r"pool.parquet, row 3: answer: got nan"):
        load(path)


def test_columns_by_configuration(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "pool.jsonl",
        [{"prompt": "no", "solution": "worked", "q": "yes", "meta": {"gold": 7}}],
    )
    (prompt,) = load(
        path, prompt_column="q", answer_column="meta.gold", name="mine", band="frontier"
    )
    assert (prompt.text, prompt.answer, prompt.source, prompt.band) == (
        "yes",
        7,
        "mine",
        "frontier",
    )
    assert "band" not in load(path)[0].columns
    with pytest.raises(
        DataError,
        match=r"line 1: meta.silver: no such column; got columns prompt, solution, q, meta",
    ):
        load(path, answer_column="meta.silver")


def test_a_worked_solution_does_not_pass_for_the_answer(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "pool.jsonl", [{"question": "6*7", "solution": "it is 42", "answer": "42"}]
    )
    assert load(path)[0].answer == "42"


def test_trl_data_without_ground_truth_needs_the_layout_spelled_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", [{"prompt": "Write a poem.", "topic": "sea"}])
    with pytest.raises(DataError, match="answer"):
        load(path)
    assert load(path, layout="trl")[0].answer is None


@settings(deadline=None)
@given(prompt=TEXTS, before=st.text(), after=st.text())
def test_a_template_is_filled_in_one_pass_and_leaves_other_braces_alone(
    prompt: str, before: str, after: str
) -> None:
    before, after = (
        before.replace("{", "(") + "\\boxed{} {other}",
        "{x^{2}} " + after.replace("{", "("),
    )
    assert (
        fill_template(f"{before}{{prompt}}{after}", {"prompt": prompt}) == before + prompt + after
    )


def test_template_and_chat(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", [{"question": "What is {prompt}?", "answer": "a"}])
    (prompt,) = load(path, template="Q: {prompt}\nPut it in \\boxed{}.", chat=True)
    assert prompt.text == "Q: What is {prompt}?\nPut it in \\boxed{}."
    assert prompt.messages == ({"role": "user", "content": prompt.text},)
    with pytest.raises(
        ConfigError, match=r"template: got 'Go!', expected at least one of \{prompt\}"
    ):
        load(path, template="Go!")
    chat = write_jsonl(
        tmp_path / "chat.jsonl", [{"prompt": [{"role": "user", "content": "hi"}], "answer": "a"}]
    )
    with pytest.raises(ConfigError, match="chat list already"):
        load(chat, template="Q: {prompt}")


def test_a_data_set_directory_is_read_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = in_three_layouts([("a?", "b"), ("c?", "d")])["verl"]
    for split in ("train", "test"):
        (tmp_path / "named").mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows if split == "train" else rows[:1]).to_parquet(
            tmp_path / "named" / f"{split}.parquet"
        )
    assert [dict(prompt.columns) for prompt in load(tmp_path / "named")] == rows
    assert len(load(f"{tmp_path / 'named'}:test")) == 1
    with pytest.raises(DataError, match=r"named:dev: neither a local file nor a data set"):
        load(f"{tmp_path / 'named'}:dev")


def test_without_datasets_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ImportError, match=r"someone/some-set:test: no such file; .*pip install 'depo-rl\[hub\]'"
    ):
        load("someone/some-set:test")


@pytest.mark.parametrize("settings", [{}, {"path": "a.jsonl", "task": "gcd"}])
def test_a_source_is_either_a_file_or_a_task(settings: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"data source 0: got path=.* and task=.*, expected exactly one"
    ):
        load_prompts([SourceConfig(**settings)])


def test_the_samples_load() -> None:
    gsm8k = load(SAMPLES / "gsm8k_sample.jsonl")
    dapo = load(SAMPLES / "dapo_math_sample.jsonl")
    assert len(gsm8k) == len(dapo) == 5
    assert all("\n#### " in prompt.answer and prompt.messages is None for prompt in gsm8k)
    assert all(
        prompt.answer == prompt.columns["reward_model"]["ground_truth"] and prompt.messages
        for prompt in dapo
    )


@pytest.mark.parametrize(
    "name",
    ["train/gsm8k_train", "train/math_train_levels", "eval/olympiadbench_oe_to_maths_en_comp"],
)
def test_real_data_sets_load_completely(name: str) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}: set DEPO_SHARED to the folder of the real data sets")
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    prompts = load(path)
    assert {(prompt.text, str(prompt.answer)) for prompt in prompts} == {
        (row["question"], str(row["answer"])) for row in rows
    }
    assert len(prompts) == len({(row["question"], str(row["answer"])) for row in rows})
