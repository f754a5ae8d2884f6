"""Fields of prompts that are read row by row, and what is known of a whole pool at once."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depo import _core


class PoolIndex(NamedTuple):
    """What the core needs of a pool of N prompts.

    Attributes:
        ids: uint64 [N], XXH3-64 of each `Prompt.id`.
        sources: uint32 [N], position of each prompt's source in `source_names`.
        source_names: Sorted and distinct; each occurs.
    """

    ids: NDArray[np.uint64]
    sources: NDArray[np.uint32]
    source_names: Sequence[str]


class Column(Protocol):
    """One value per row."""

    def __getitem__(self, row: int, /) -> Any: ...


class EncodedAnswers(NamedTuple):
    """Ground truths of a whole pool: strings, or values of any kind as JSON."""

    texts: _core.TextColumn
    are_json: bool


class AnswerColumn(Column, Protocol):
    """Ground truths by row, and all at once for the ids that are made of them."""

    def encode(self) -> EncodedAnswers:
        """Return all of them."""


class Items:
    """Items of a sequence or of a NumPy array, as Python values."""

    def __init__(self, items: Sequence[Any] | NDArray[Any]) -> None:
        self._items = (
            items if isinstance(items, (list, tuple, np.ndarray)) else np.asarray(items, object)
        )  # what is not indexed by row, such as a Series

    def __getitem__(self, row: int) -> Any:
        item = self._items[row]
        return item.item() if isinstance(item, np.generic) else item

    def encode(self) -> EncodedAnswers:
        """Return all items as JSON."""
        return json_of(self[row] for row in range(len(self._items)))


class Strings:
    """Strings that lie in buffers."""

    def __init__(self, texts: _core.TextColumn) -> None:
        self._texts = texts

    def __getitem__(self, row: int) -> str:
        return self._texts.texts([row])[0]


class Sources:
    """Name of each prompt's source, in a byte or two per prompt.

    Args:
        codes: Integers [N], positions in `names`.
        names: In any order; a name may be there twice or not be used.
    """

    def __init__(self, codes: NDArray[Any], names: Sequence[str]) -> None:
        used = np.bincount(codes, minlength=len(names)).astype(bool)
        self.names: list[str] = sorted(
            {name for name, is_used in zip(names, used, strict=True) if is_used}
        )
        place_of = {name: place for place, name in enumerate(self.names)}
        self._codes: NDArray[Any] = np.array(
            [place_of.get(name, 0) for name in names], np.min_scalar_type(len(names))
        )[codes]

    @classmethod
    def checked(cls, codes: ArrayLike, names: Sequence[str], length: int) -> Sources:
        """Return the sources of `length` prompts, by codes that come from outside.

        Raises:
            ValueError: Not one integer per prompt, or one that has no name.
        """
        given = np.asarray(codes)
        if given.shape != (length,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"sources: got a {given.dtype} array of shape {given.shape}, expected integers of "
                f"shape ({length},)"
            )
        if (outside := np.flatnonzero((given < 0) | (given >= len(names)))).size:
            raise ValueError(
                f"sources: got {given[outside[0]]} at row {outside[0]}, expected numbers within "
                f"0..{len(names)}, the number of source_names"
            )
        return cls(given.astype(np.intp, copy=False), names)

    @property
    def codes(self) -> NDArray[np.uint32]:
        """Position of each prompt's source in `names`."""
        return self._codes.astype(np.uint32)

    def __getitem__(self, row: int) -> str:
        return self.names[int(self._codes[row])]


def json_of(values: Iterable[Any]) -> EncodedAnswers:
    """Return values as JSON, each as it stands in the list that `Prompt.id` is the hash of."""
    encoder = json.JSONEncoder(sort_keys=True, default=str, ensure_ascii=False)
    utf8, ends = bytearray(), array("q", [0])
    for value in values:
        utf8 += encoder.encode(value).encode()
        ends.append(len(utf8))
    return EncodedAnswers(
        _core.TextColumn([(np.frombuffer(utf8, np.uint8), np.frombuffer(ends, np.int64))]),
        are_json=True,
    )
