"""Columns of an Arrow table as fields of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depo import _core
from depo.sampler.prompt_table.columns import EncodedAnswers, Sources, json_of
from depo.types.errors import DataError

BLOCK_ROWS = 65_536  # rows that are Python objects at a time


class Values:
    """A column, one Python value at a time."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __getitem__(self, row: int) -> Any:
        return self._column[row].as_py()


class Answers(Values):
    """Ground truths of any type."""

    def encode(self) -> EncodedAnswers:
        """Return all answers.

        Strings where they lie, integers and booleans as Arrow writes them, anything else by way of
        Python.
        """
        column = self._column
        kind = column.type
        if _is_text(kind) and not (strings := _strings(column)).null_count:
            return EncodedAnswers(_in_place(strings), are_json=False)
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return EncodedAnswers(
                texts(column.cast(pa.large_string()).fill_null("null"), "answer"), are_json=True
            )
        return json_of(self._values())

    def _values(self) -> Iterator[Any]:
        for start in range(0, len(self._column), BLOCK_ROWS):
            yield from self._column.slice(start, BLOCK_ROWS).to_pylist()


class Messages(Values):
    """Chat messages, reduced to role and content."""

    def __getitem__(self, row: int) -> tuple[dict[str, str], ...]:
        return tuple(
            {"role": message["role"], "content": message["content"]}
            for message in super().__getitem__(row)
        )


class Rows:
    """Whole rows."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = dict(zip(table.column_names, table.columns, strict=True))

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: column[row].as_py() for name, column in self._columns.items()}


def table_of(data: Any, text: str) -> pa.Table:
    """Return Arrow data as a table, a single column as one that is named `text`.

    Raises:
        DataError: The data are not Arrow's.
    """
    if isinstance(data, (pa.Array, pa.ChunkedArray)):
        return pa.table({text: data})
    if isinstance(data, pa.Table):
        return data
    if not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
        expected = (
            "Arrow data (a pyarrow.Table, or an object with __arrow_c_stream__; of a "
            'Hugging Face Dataset its `with_format("arrow")[:]`)'
        )
        raise DataError(
            f"data: got {type(data).__module__}.{type(data).__qualname__}, expected {expected}"
        )
    try:
        return _one_column(data, text) or pa.table(data)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(
            f"data: got {type(data).__module__}.{type(data).__qualname__}, which Arrow cannot "
            f"take over: {error}"
        ) from error


def _one_column(data: Any, text: str) -> pa.Table | None:
    """Return data that do not say whether they are a column, such as a Series, or a table.

    None if they have columns.
    """
    if hasattr(data, "columns") or isinstance(data, pa.RecordBatchReader):
        return None
    try:
        column = (
            pa.chunked_array(data)
            if hasattr(data, "__arrow_c_stream__")
            else pa.chunked_array([pa.array(data)])
        )
    except (pa.ArrowException, TypeError):
        return None
    return (
        pa.Table.from_struct_array(column)
        if pa.types.is_struct(column.type)
        else pa.table({text: column})
    )


def column(table: pa.Table, path: str, field: str) -> pa.ChunkedArray:
    """Return a column by name, or by names with dots between them where it is nested.

    Raises:
        DataError: There is no such column.
    """
    outer, *inner = (path,) if path in table.column_names else path.split(".")
    if table.column_names.count(outer) != 1:
        raise DataError(
            f"{field}: got column {path!r}, expected one of {', '.join(table.column_names)}"
        )
    found = table.column(outer)
    for name in inner:
        if not pa.types.is_struct(found.type) or found.type.get_field_index(name) < 0:
            raise DataError(
                f"{field}: got column {path!r}, but what is before {name!r} is of type "
                f"{found.type}, expected a struct with this field"
            )
        found = pc.struct_field(found, name)
    return found


def prompts(column: pa.ChunkedArray) -> tuple[_core.TextColumn, Messages | None]:
    """Return the texts of prompts, and the messages if they are chats.

    Raises:
        DataError: The column holds something else, a null, or a chat without messages.
    """
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return texts(column, "text"), None
    _require_none(column.is_null(), "text", "null", "chat messages")
    _require_none(
        pc.equal(pc.list_value_length(column), 0),
        "text",
        "a chat without messages",
        "at least one message",
    )
    message = column.type.value_type
    for name in ("role", "content"):
        if (
            not pa.types.is_struct(message)
            or message.get_field_index(name) < 0
            or not _is_text(message.field(name).type)
        ):
            raise DataError(
                f"text: got messages of type {message}, expected role and content, both strings"
            )
        joined = pa.chunked_array(
            [_joined(chunk, name) for chunk in column.chunks], pa.large_string()
        )
        _require_none(
            joined.is_null(), "text", f"a message without {name}", f"messages with {name}"
        )
    return texts(joined, "text"), Messages(column)


def ids(column: pa.ChunkedArray) -> _core.TextColumn:
    """Return ids as strings.

    Raises:
        DataError: They are neither strings nor integers, or one is null.
    """
    if not pa.types.is_integer(column.type) and not _is_text(column.type):
        raise DataError(f"id: got a column of type {column.type}, expected strings or integers")
    return texts(
        column.cast(pa.large_string()) if pa.types.is_integer(column.type) else column, "id"
    )


def sources(column: pa.ChunkedArray) -> Sources:
    """Return source names as codes.

    Raises:
        DataError: They are no strings, or one is null.
    """
    _require_text(column, "source")
    _require_none(column.is_null(), "source", "null", "a string")
    encoded = (
        column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    ).unify_dictionaries()
    names = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    if None in names:
        raise DataError("source: got null as an entry of the dictionary, expected strings")
    codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return Sources(np.concatenate(codes or [np.empty(0, np.int32)]), names)


def texts(column: pa.ChunkedArray, field: str) -> _core.TextColumn:
    """Return strings in the buffers where they lie; as string_view or dictionary they are copied.

    Raises:
        DataError: They are no strings, or one is null.
    """
    _require_text(column, field)
    strings = _strings(column)
    _require_none(strings.is_null(), field, "null", "a string")
    return _in_place(strings)


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_plain = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return column if is_plain else column.cast(pa.large_string())


def _in_place(strings: pa.ChunkedArray) -> _core.TextColumn:
    return _core.TextColumn([_buffers(chunk) for chunk in strings.chunks if len(chunk)])


def _buffers(chunk: pa.Array) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    _, offsets, utf8 = chunk.buffers()
    width = np.dtype(np.int64 if pa.types.is_large_string(chunk.type) else np.int32)
    bounds = np.frombuffer(offsets, width, len(chunk) + 1, chunk.offset * width.itemsize)
    return np.frombuffer(utf8 or b"", np.uint8), bounds


def _joined(chunk: pa.Array, name: str) -> pa.Array:
    """Return the messages' role or content as one text per chat, with blank lines between.

    Null where one is missing.
    """
    parts = pc.struct_field(chunk.values, name).cast(pa.large_string())
    kind = pa.LargeListArray if pa.types.is_large_list(chunk.type) else pa.ListArray
    return pc.binary_join(
        kind.from_arrays(chunk.offsets, parts), pa.scalar("\n\n", pa.large_string())
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _require_text(column: pa.ChunkedArray, field: str) -> None:
    if not _is_text(column.type):
        raise DataError(
            f"{field}: got a column of type {column.type}, expected "
            f"strings{' or chat messages' if field == 'text' else ''}"
        )


def _require_none(flags: pa.ChunkedArray, field: str, got: str, expected: str) -> None:
    if (row := pc.index(flags, True).as_py()) >= 0:
        raise DataError(f"{field}: got {got} at row {row}, expected {expected}")
