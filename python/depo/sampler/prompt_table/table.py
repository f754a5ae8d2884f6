"""PromptTable: prompts as columns, each made when it is asked for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depo import _core
from depo.sampler.prompt_table.columns import (
    AnswerColumn,
    Column,
    Items,
    PoolIndex,
    Sources,
    Strings,
)
from depo.types.errors import DISTRIBUTION
from depo.types.records import Prompt

DEFAULT_SOURCE: str = Prompt(text="").source
Buffers = tuple[NDArray[np.uint8], NDArray[np.int32] | NDArray[np.int64]]
"""UTF-8 bytes and offsets [n + 1]: string i is the bytes from offset i up to offset i + 1."""


class PromptTable(Sequence[Prompt]):
    """A pool of millions of prompts without an object for each.

    Texts stay in the buffers of Arrow or NumPy, uncopied; a `Prompt` is made when it is asked for,
    with all its fields. `PromptSampler` takes a table as it is: draws, ids and states are those of
    the same prompts in a list.

    The buffers are checked once: nobody may write to them as long as the table is in use. Should
    somebody do, texts change or their reading fails, but nothing outside of the buffers is ever
    read. Make a table with `from_arrow` or `from_utf8`.
    """

    def __init__(
        self,
        texts: _core.TextColumn,
        *,
        ids: _core.TextColumn | None = None,
        answers: AnswerColumn | None = None,
        sources: Sources | None = None,
        others: Mapping[str, Column] | None = None,
    ) -> None:
        self._texts, self._ids, self._answers, self._sources = texts, ids, answers, sources
        fields: dict[str, Column | None] = {
            "id": Strings(ids) if ids is not None else None,
            "answer": answers,
            "source": sources,
            **(others or {}),
        }
        self._fields = {name: column for name, column in fields.items() if column is not None}

    @classmethod
    def from_arrow(
        cls,
        data: Any,
        text: str = "prompt",
        *,
        answer: str | None = None,
        source: str | None = None,
        id: str | None = None,
        band: str | None = None,
    ) -> PromptTable:
        """Return the rows of an Arrow table as prompts. `Prompt.columns` is the whole row.

        Not copied: texts, ids and answers of type string or large_string, in any number of chunks,
        and whatever is read of drawn prompts alone. Copied once: texts as string_view or
        dictionary, the joined contents of chat messages, ids that are integers, and source names,
        which become codes of a byte or two.

        Args:
            data: pyarrow Table, RecordBatch or column of texts, or anything with the Arrow
                PyCapsule interface (polars, duckdb, pandas). Of a Hugging Face `Dataset`:
                `dataset.with_format("arrow")[:]`.
            text: Column of the prompts: strings, or chat messages, lists of {role, content}. A dot
                leads into a nested column, as in all that follow.
            answer: Column of ground truths, of any type; null: None.
            source: Column of source names; None: all prompts are of the source "default".
            id: Column of distinct ids, strings or integers; None: the hash of source, text and
                answer.
            band: Column of difficulty bands.

        Raises:
            DataError: No such column, one of another type, or a null other than an answer; the
                message names the row, counted from 0.
            ImportError: pyarrow is not installed.
        """
        try:
            from depo.sampler.prompt_table import arrow
        except ImportError as error:
            raise ImportError(
                "PromptTable.from_arrow needs the package pyarrow (pip install pyarrow; it is "
                f"part of {DISTRIBUTION}[train] and {DISTRIBUTION}[trl])"
            ) from error
        table = arrow.table_of(data, text)
        column = arrow.column(table, text, "text")
        texts, messages = arrow.prompts(column)
        return cls(
            texts,
            ids=arrow.ids(arrow.column(table, id, "id")) if id is not None else None,
            answers=arrow.Answers(arrow.column(table, answer, "answer"))
            if answer is not None
            else None,
            sources=arrow.sources(arrow.column(table, source, "source"))
            if source is not None
            else None,
            others={
                "columns": arrow.Rows(table),
                **({"messages": messages} if messages else {}),
                **(
                    {"band": Strings(arrow.texts(arrow.column(table, band, "band"), "band"))}
                    if band is not None
                    else {}
                ),
            },
        )

    @classmethod
    def from_utf8(
        cls,
        utf8: NDArray[np.uint8],
        offsets: NDArray[np.int32] | NDArray[np.int64],
        *,
        answers: Sequence[Any] | NDArray[Any] | None = None,
        sources: ArrayLike | None = None,
        source_names: Sequence[str] = (),
        ids: Buffers | None = None,
    ) -> PromptTable:
        """Return prompts whose texts lie one after another in a NumPy array.

        The array may be memory-mapped. Nothing but codes of sources is copied.

        Args:
            utf8: uint8, contiguous: the texts' UTF-8 bytes.
            offsets: int32 or int64 [N + 1], contiguous: text i is `utf8[offsets[i] : offsets[i +
                1]]`.
            answers: Ground truths [N], read when drawn.
            sources: Integers [N], positions in `source_names`; None: all prompts are of the source
                "default".
            source_names: Names of the sources.
            ids: Distinct ids, as bytes and offsets like the texts; None: the hash of source, text
                and answer.

        Raises:
            ValueError: Offsets fall or leave the array, bytes are no UTF-8, an array is of another
                type or length; the message names the row, counted from 0.
        """
        texts, id_texts = _core.TextColumn([(utf8, offsets)]), ids and _core.TextColumn([ids])
        for name, column in (("answers", answers), ("ids", id_texts)):
            if column is not None and len(column) != len(texts):
                raise ValueError(
                    f"{name}: got length {len(column)}, expected {len(texts)}, as there are texts"
                )
        return cls(
            texts,
            ids=id_texts,
            answers=None if answers is None else Items(answers),
            sources=None if sources is None else Sources.checked(sources, source_names, len(texts)),
        )

    def texts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Return the texts of some rows, each within 0..N.

        Raises:
            IndexError: A row is out of range.
        """
        return self._texts.texts(rows)

    def pool_index(self) -> PoolIndex:
        """Return hashed ids and sources of all prompts.

        Computed anew at each call, and not kept.
        """
        names = self._sources.names if self._sources else [DEFAULT_SOURCE]
        codes = self._sources.codes if self._sources else np.zeros(len(self), np.uint32)
        if self._ids is not None:
            return PoolIndex(self._ids.content_ids(), codes, names)
        answers = self._answers.encode() if self._answers else None
        ids = self._texts.prompt_ids(
            answers and answers.texts, bool(answers and answers.are_json), codes, names
        )
        return PoolIndex(ids, codes, names)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int, /) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice, /) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice, /) -> Prompt | tuple[Prompt, ...]:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        row = operator.index(index)
        row += len(self) if row < 0 else 0
        (text,) = self.texts([row])
        fields: dict[str, Any] = {name: column[row] for name, column in self._fields.items()}
        return Prompt(text=text, **fields)

    def __repr__(self) -> str:
        return f"PromptTable of {len(self)} prompts"
