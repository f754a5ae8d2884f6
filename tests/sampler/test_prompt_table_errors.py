"""What a PromptTable refuses, and how it says so."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from depo import DataError, PromptSampler, PromptTable
from tests.sampler.sampler_helpers import chat, utf8_buffers

STRING_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
]


def test_two_prompts_of_one_id_are_refused_with_their_rows() -> None:
    with pytest.raises(ValueError, match="at positions 1 and 3, expected distinct ids"):
        PromptSampler(PromptTable.from_arrow(pa.array(["a", "b", "c", "b"])))


def test_buffers_that_are_written_to_are_never_left() -> None:
    utf8, offsets = np.frombuffer(b"abcdef", np.uint8).copy(), np.array([0, 2, 4, 6], np.int64)
    table = PromptTable.from_utf8(utf8, offsets)
    offsets[2] = 1 << 40
    with pytest.raises(
        ValueError,
        match="got other offsets at row 1 than at first, expected buffers that are not written to",
    ):
        table.texts([1])
    utf8[0] = 255
    with pytest.raises(UnicodeDecodeError):
        table.texts([0])


@pytest.mark.parametrize(
    ("utf8", "offsets", "message"),
    [
        (b"abc", [0, 2, 1], r"offsets: got 2 and then 1 at row 1, expected offsets from 0 to 3"),
        (b"abc", [0, 1, 4], r"offsets: got 1 and then 4 at row 1, expected offsets from 0 to 3"),
        (b"abc", [-1, 2], r"offsets: got -1 and then 2 at row 0"),
        (b"abc", [], r"offsets: got length 0"),
        (b"a\xffc", [0, 1, 3], r"utf8: got bytes at row 1 that are no UTF-8"),
        ("aé".encode(), [0, 2, 3], r"utf8: got bytes at row 0 that are no UTF-8"),
        (b"\xed\xa0\x80", [0, 3], r"utf8: got bytes at row 0 that are no UTF-8"),
    ],
)
def test_broken_buffers_are_refused(utf8: bytes, offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptTable.from_utf8(np.frombuffer(utf8, np.uint8), np.array(offsets, np.int64))


def test_buffers_of_another_shape_or_type_are_refused_instead_of_copied() -> None:
    bytes_, offsets = np.zeros(8, np.uint8), np.array([0, 4, 8])
    for utf8, bounds, message in [
        (
            bytes_[::2],
            offsets,
            "utf8: got a uint8 array of shape .* expected a contiguous one-dimensional uint8 array",
        ),
        (bytes_.view(np.int8), offsets, "utf8: got a int8 array"),
        (bytes_, offsets.astype(float), "offsets: got a float64 array .* int32 or int64"),
        (bytes_, offsets.tolist(), "offsets: got <class 'list'>"),
        (
            np.frombuffer(b"\0" * 8, np.uint8),
            np.frombuffer(b"\0" * 17, np.uint8)[1:].view(np.int64),
            "offsets: got a int64 array",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            PromptTable.from_utf8(utf8, bounds)  # type: ignore[arg-type]
    for options, message in [
        ({"answers": [1]}, "answers: got length 1, expected 2"),
        ({"ids": utf8_buffers(["a"])}, "ids: got length 1, expected 2"),
        (
            {"sources": [0], "source_names": ["a"]},
            r"sources: got a int64 array of shape \(1,\), expected integers of shape \(2,\)",
        ),
        (
            {"sources": [0, 1], "source_names": ["a"]},
            r"sources: got 1 at row 1, expected numbers within 0\.\.1",
        ),
        ({"sources": [-1, 0], "source_names": ["a"]}, "sources: got -1 at row 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            PromptTable.from_utf8(bytes_, offsets, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids: got an empty id at row 1"):
        PromptSampler(PromptTable.from_utf8(bytes_, offsets, ids=utf8_buffers(["a", ""])))


@pytest.mark.parametrize("kind", STRING_TYPES)
@pytest.mark.parametrize("field", ["text", "source", "id", "band"])
def test_nulls_are_refused_with_their_row(kind: pa.DataType, field: str) -> None:
    columns = {name: pa.array(["a", "b", "c"], kind) for name in ("text", "source", "id", "band")}
    columns[field] = pa.chunked_array([pa.array(["a"], kind), pa.array(["b", None], kind)])
    with pytest.raises(DataError, match=f"{field}: got null at row 2, expected a string"):
        PromptTable.from_arrow(pa.table(columns), "text", source="source", id="id", band="band")


def test_a_null_within_a_dictionary_is_one() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))
    for field, options in [("text", {}), ("source", {"source": "prompt"})]:
        rows = pa.table({"text": ["x", "y"], "prompt": column})
        with pytest.raises(DataError, match=f"{field}: got null"):
            PromptTable.from_arrow(rows, "text" if options else "prompt", **options)


def test_columns_that_do_not_fit_are_refused() -> None:
    rows = pa.table({"prompt": ["a"], "number": [1.5], "nested": [{"truth": "1"}]})
    for options, message in [
        (
            {"text": "question"},
            "text: got column 'question', expected one of prompt, number, nested",
        ),
        (
            {"text": "number"},
            "text: got a column of type double, expected strings or chat messages",
        ),
        ({"id": "number"}, "id: got a column of type double, expected strings"),
        (
            {"answer": "nested.label"},
            "answer: got column 'nested.label', but what is before 'label' is of type struct",
        ),
        (
            {"answer": "prompt.label"},
            "answer: got column 'prompt.label', but what is before 'label' is of type string",
        ),
    ]:
        with pytest.raises(DataError, match=message):
            PromptTable.from_arrow(rows, **options)
    with pytest.raises(DataError, match=r"data: got builtins\.list, expected Arrow data"):
        PromptTable.from_arrow(["a"])
    with pytest.raises(
        DataError,
        match=r"data: got pandas.*DataFrame, which Arrow cannot take over: .*column other",
    ):
        PromptTable.from_arrow(pd.DataFrame({"prompt": ["a", "b"], "other": [1, "x"]}))


@pytest.mark.parametrize(
    ("chats", "message"),
    [
        ([chat("a"), None], "text: got null at row 1, expected chat messages"),
        ([chat("a"), []], "text: got a chat without messages at row 1"),
        ([chat("a"), chat("a", None)], "text: got a message without content at row 1"),
        ([chat("a"), [None]], "text: got a message without role at row 1"),
        (
            [[{"role": "user", "content": ["a"]}]],
            "text: got messages of type .*, expected role and content, both strings",
        ),
    ],
)
def test_broken_chats_are_refused(chats: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PromptTable.from_arrow(pa.table({"prompt": chats}))


def test_without_pyarrow_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "depo.sampler.prompt_table.arrow", raising=False)
    monkeypatch.delattr("depo.sampler.prompt_table.arrow", raising=False)
    with pytest.raises(ImportError, match=r"pip install pyarrow; it is part of depo-rl\[train\]"):
        PromptTable.from_arrow(pa.table({"prompt": ["a"]}))
