"""PromptTable: whatever holds the columns, the pool is the one.

That the same prompts make in a tuple.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import DataError, Draw, Prompt, PromptSampler, PromptTable, SelectorConfig, _core
from depo.sampler.core import build_core
from tests.sampler.sampler_helpers import G, LengthEstimator, answer, chat, utf8_buffers

STRING_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ANSWERS = {
    "strings": (TEXTS, None),
    "strings or null": (TEXTS | st.none(), pa.string()),
    "integers": (st.integers(-(2**63), 2**63 - 1) | st.none(), pa.int64()),
    "booleans": (st.booleans(), pa.bool_()),
    "floats": (st.floats(allow_nan=False), pa.float64()),
    "lists": (st.lists(TEXTS, max_size=3), pa.list_(pa.string())),
    "structs": (
        st.fixed_dictionaries({"b": TEXTS, "a": st.integers(0, 9)}),
        pa.struct([("b", pa.string()), ("a", pa.int8())]),
    ),
    "decimals": (st.decimals(-10, 10, places=2), pa.decimal128(10, 2)),
    "nothing": (st.none(), pa.null()),
}


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Prompt], str]:
    """Distinct prompts with all fields that a table may hold.

    Also the name of their answers' kind.
    """
    kind = draw(st.sampled_from(sorted(ANSWERS)))
    rows = st.tuples(TEXTS, st.sampled_from("bac"), ANSWERS[kind][0])
    drawn = draw(
        st.lists(
            rows,
            min_size=1,
            max_size=30,
            unique_by=lambda row: json.dumps(row, sort_keys=True, default=str),
        )
    )
    return [
        Prompt(text=text, source=source, answer=value, band=f"band {source}")
        for text, source, value in drawn
    ], kind


def chunked(data: st.DataObject, values: Sequence[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """The values in chunks, some of them empty, each a slice of a longer array."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    bounds = list(zip([0, *cuts], [*cuts, len(values)], strict=True))
    skipped = values[:2]
    chunks = [
        pa.array([*skipped, *values[start:end], values[0]], kind).slice(len(skipped), end - start)
        for start, end in bounds
    ]
    return pa.chunked_array(chunks, kind)


def arrow_table(data: st.DataObject, prompts: Sequence[Prompt], kind: str) -> pa.Table:
    columns = {
        "text": ("text", STRING_TYPES),
        "source": ("source", STRING_TYPES),
        "band": ("band", STRING_TYPES),
        "truth": ("answer", [ANSWERS[kind][1]]),
    }
    return pa.table(
        {
            name: chunked(
                data,
                [getattr(prompt, field) for prompt in prompts],
                data.draw(st.sampled_from([choice or pa.string() for choice in choices])),
            )
            for name, (field, choices) in columns.items()
        }
    )


def assert_same_prompts(table: PromptTable, prompts: Sequence[Prompt]) -> None:
    shown = [(prompt.text, prompt.answer, prompt.source, prompt.id) for prompt in table]
    assert shown == [(prompt.text, prompt.answer, prompt.source, prompt.id) for prompt in prompts]
    assert table.texts(range(len(prompts))[::-1]) == [prompt.text for prompt in prompts][::-1]
    config = SelectorConfig.from_preset("depo")
    mine, theirs = (build_core(pool, G, config, 0).state_dict() for pool in (table, tuple(prompts)))
    np.testing.assert_array_equal(mine["pool.ids"], theirs["pool.ids"])


@given(st.data(), pools())
@settings(max_examples=150, deadline=None)
def test_an_arrow_table_holds_the_prompts_of_its_rows(
    data: st.DataObject, pool: tuple[list[Prompt], str]
) -> None:
    prompts, kind = pool
    rows = arrow_table(data, prompts, kind)
    table = PromptTable.from_arrow(rows, "text", answer="truth", source="source", band="band")
    assert_same_prompts(table, prompts)
    assert [prompt.columns for prompt in table] == rows.to_pylist()
    assert [prompt.band for prompt in table] == [prompt.band for prompt in prompts]


@given(pools(), st.sampled_from([np.int32, np.int64]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_numpy_buffers_hold_the_same_prompts(
    pool: tuple[list[Prompt], str], width: Any, as_array: bool
) -> None:
    prompts, kind = pool
    answers: Any = [prompt.answer for prompt in prompts]
    answers = np.array(answers) if as_array and kind == "booleans" else answers
    names = ["unused", "c", "b", "a", "c"]
    codes = np.array(
        [names.index(prompt.source) for prompt in prompts], np.uint64 if as_array else np.uint8
    )
    table = PromptTable.from_utf8(
        *utf8_buffers([prompt.text for prompt in prompts], width),
        answers=answers,
        sources=codes,
        source_names=names,
    )
    assert_same_prompts(table, prompts)


@pytest.mark.parametrize("kind", [*STRING_TYPES, pa.int16(), "numpy"])
def test_ids_may_be_given(kind: Any) -> None:
    texts, ids = ["same", "same", "é"], ["7", "-12", "300"]
    if kind == "numpy":
        table = PromptTable.from_utf8(*utf8_buffers(texts), ids=utf8_buffers(ids))
    else:
        column = (
            pa.array([int(name) for name in ids], kind)
            if pa.types.is_integer(kind)
            else pa.array(ids, kind)
        )
        table = PromptTable.from_arrow(pa.table({"prompt": texts, "number": column}), id="number")
    assert_same_prompts(
        table, [Prompt(text=text, id=name) for text, name in zip(texts, ids, strict=True)]
    )


def play(sampler: PromptSampler, versions: range) -> list[Draw]:
    drawn = []
    for version in versions:
        draws = sampler.sample(5, policy_version=version)
        sampler.observe(draws, answer(draws), policy_version=version)
        sampler.update_estimator()
        drawn += draws
    return drawn


@given(
    seed=st.integers(0, 2**64 - 1),
    size=st.integers(20, 60),
    stop=st.integers(1, 5),
    preset=st.sampled_from(["depo", "dapo", "mopps", "depo_paper"]),
)
@settings(max_examples=25, deadline=None)
def test_a_table_is_drawn_from_as_the_tuple_is_and_goes_on_from_its_state(
    seed: int, size: int, stop: int, preset: str
) -> None:
    texts, topics = (
        [str(index) * (1 + index % 7) for index in range(size)],
        ["ab"[index % 2] for index in range(size)],
    )
    rows = pa.table({"prompt": texts, "answer": range(size), "topic": topics})
    table = PromptTable.from_arrow(rows, answer="answer", source="topic")
    config = SelectorConfig.from_preset(
        preset, warmup_steps=1, source_floors={"b": 0.3} if preset == "depo" else {}
    )
    of_tuple, of_table, resumed = (
        PromptSampler(pool, G, config, LengthEstimator(), seed)
        for pool in (tuple(table), table, table)
    )
    assert of_table.prompts is table
    assert play(of_table, range(stop)) == play(of_tuple, range(stop))
    assert resumed.load_state_dict(of_tuple.state_dict()) == {
        "matched": size,
        "missing": 0,
        "added": 0,
    }
    assert (
        play(resumed, range(stop, 7))
        == play(of_table, range(stop, 7))
        == play(of_tuple, range(stop, 7))
    )
    for mine, theirs in zip(
        of_table.beliefs(range(size), policy_version=7),
        of_tuple.beliefs(range(size), policy_version=7),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert [batch.texts for batch in of_table.estimator.batches] == [
        batch.texts for batch in of_tuple.estimator.batches
    ]  # type: ignore[union-attr]


def test_what_is_known_follows_the_prompts_into_another_table() -> None:
    texts = [f"prompt {index}" for index in range(40)]
    known = PromptSampler(texts, G, seed=1)
    play(known, range(4))
    other = PromptSampler(PromptTable.from_utf8(*utf8_buffers([*texts[:9:-1], "new"])), G, seed=1)
    assert other.load_state_dict(known.state_dict(), strict=False) == {
        "matched": 30,
        "missing": 10,
        "added": 1,
    }
    _, mine, _ = other.beliefs(range(30), policy_version=4)
    _, theirs, _ = known.beliefs(range(39, 9, -1), policy_version=4)
    np.testing.assert_array_equal(mine, theirs)


def test_nothing_is_copied() -> None:
    utf8, offsets = utf8_buffers([f"prompt {index}" for index in range(100)])
    utf8 = utf8.copy()
    shared = sys.getrefcount(utf8), sys.getrefcount(offsets)
    of_numpy = PromptTable.from_utf8(utf8, offsets)
    assert (sys.getrefcount(utf8), sys.getrefcount(offsets)) == (shared[0] + 1, shared[1] + 1)
    of_arrow = PromptTable.from_arrow(
        pa.LargeStringArray.from_buffers(100, pa.py_buffer(offsets), pa.py_buffer(utf8))
    )
    utf8[0] = ord("P")  # which nobody should do
    assert of_numpy[0].text == of_arrow[0].text == "Prompt 0"


@pytest.mark.parametrize("as_list", [pa.list_, pa.large_list])
def test_chats_are_prompts(as_list: Any) -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
    chats = [chat("skipped"), chat("be brief", "2 + é?"), chat(""), chat("one")]
    column = pa.chunked_array(
        [pa.array(chats, as_list(message)).slice(1, 2), pa.array(chats, as_list(message)).slice(3)]
    )
    table = PromptTable.from_arrow(
        pa.table({"prompt": column, "reward_model": [{"ground_truth": "1"}] * 3}),
        answer="reward_model.ground_truth",
    )
    assert_same_prompts(
        table, [Prompt(text=text, answer="1") for text in ("be brief\n\n2 + é?", "", "one")]
    )
    assert table[0].messages == (
        {"role": "user", "content": "be brief"},
        {"role": "user", "content": "2 + é?"},
    )


def test_anything_with_the_arrow_interface_will_do() -> None:
    import datasets
    import pandas as pd

    expected = [Prompt(text="a", answer=1), Prompt(text="b", answer=2)]
    columns = {"prompt": ["a", "b"], "answer": [1, 2]}
    rows = pa.table(columns)
    for data in (
        rows,
        rows.to_batches()[0],
        rows.to_reader(),
        pd.DataFrame(columns),
        datasets.Dataset.from_dict(columns).with_format("arrow")[:],
    ):
        assert_same_prompts(PromptTable.from_arrow(data, answer="answer"), expected)
    assert_same_prompts(
        PromptTable.from_arrow(rows["prompt"]), [Prompt(text="a"), Prompt(text="b")]
    )
    with pytest.raises(
        DataError, match=r"got datasets.arrow_dataset.Dataset, expected .*with_format\(\"arrow\"\)"
    ):
        PromptTable.from_arrow(datasets.Dataset.from_dict(columns))


class Capsule:
    """Data that tell nothing but how Arrow reads them."""

    def __init__(self, data: Any) -> None:
        if hasattr(data, "__arrow_c_stream__"):
            self.__arrow_c_stream__ = data.__arrow_c_stream__
        else:
            self.__arrow_c_array__ = data.__arrow_c_array__


def test_one_column_will_do_wherever_it_lies() -> None:
    import pandas as pd

    texts, rows = pa.array(["a", "b"]), pa.table({"prompt": ["a", "b"]})
    for data in (
        pd.Series(["a", "b"]),
        Capsule(texts),
        Capsule(pa.chunked_array([texts])),
        Capsule(rows),
        Capsule(rows.to_batches()[0]),
    ):
        assert_same_prompts(PromptTable.from_arrow(data), [Prompt(text="a"), Prompt(text="b")])


def test_a_table_is_a_sequence() -> None:
    table = PromptTable.from_utf8(*utf8_buffers(["a", "b", "c"]))
    assert table[-1].text == "c" and [prompt.text for prompt in table[::-2]] == ["c", "a"]
    assert Prompt(text="b") in table and table.index(Prompt(text="c")) == 2
    assert repr(table) == "PromptTable of 3 prompts"
    for index in (3, -4):
        with pytest.raises(IndexError, match=r"expected an index within 0\.\.3"):
            table[index]
    with pytest.raises(
        ValueError,
        match="prompts: got PromptTable of 0 prompts, expected a sequence of at least one",
    ):
        PromptSampler(PromptTable.from_arrow(pa.array([], pa.string())))


def test_answers_in_numpy_are_python_values() -> None:
    table = PromptTable.from_utf8(*utf8_buffers(["a", "b"]), answers=np.array([3, 4], np.int32))
    assert_same_prompts(table, [Prompt(text="a", answer=3), Prompt(text="b", answer=4)])
    assert type(table[0].answer) is int


@pytest.mark.parametrize("kind", ["series", "arrow"])
def test_answers_go_by_row_whatever_holds_them(kind: str) -> None:
    import pandas as pd

    answers = pd.Series(["x", "y"], index=[1, 0]) if kind == "series" else pa.array(["x", "y"])
    table = PromptTable.from_utf8(*utf8_buffers(["a", "b"]), answers=answers)
    assert_same_prompts(table, [Prompt(text="a", answer="x"), Prompt(text="b", answer="y")])


def test_the_example_in_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (
        (Path(__file__).parents[2] / "docs" / "integrations" / "own_loop.md")
        .read_text(encoding="utf-8")
        .partition("## Millions of prompts")[2]
    )
    example = section.partition("```python\n")[2].partition("```")[0]
    columns = {
        name: [f"{name} {index}" for index in range(100)]
        for name in ("problem", "solution", "topic", "uuid", "difficulty")
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "prompts.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "own_loop.md", "exec"), names)
    drawn = names["draws"][0].prompt
    assert (
        capsys.readouterr().out == f"{drawn.text} {drawn.text.replace('problem', 'difficulty')}\n"
    )
    assert (drawn.answer, drawn.id) == (
        drawn.text.replace("problem", "solution"),
        drawn.text.replace("problem", "uuid"),
    )


def test_content_ids_are_those_of_the_strings() -> None:
    texts = ["a", "é", "x" * 300]
    np.testing.assert_array_equal(
        _core.TextColumn(
            [utf8_buffers(texts[:1]), utf8_buffers(texts[1:], np.int32)]
        ).content_ids(),
        _core.content_ids(texts),
    )
