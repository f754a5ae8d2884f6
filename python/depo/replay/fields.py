"""Fields of a log's rows, checked.

What does not fit is a DataError that names file, line and field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from depo.types.errors import DataError


def require(condition: bool, where: str, name: str, got: object, expected: str) -> None:
    """Raise a DataError about a field unless the condition holds."""
    if not condition:
        raise DataError(f"{where}: {name}: got {got!r:.80}, expected {expected}")


def integer(
    row: Mapping[str, Any], name: str, where: str, *, least: int = 0, most: int | None = None
) -> int:
    """Return an integer field within its bounds."""
    value = row.get(name)
    expected = f"an integer >= {least}" if most is None else f"an integer in {least}..{most}"
    require(
        isinstance(value, int)
        and not isinstance(value, bool)
        and least <= value <= (value if most is None else most),
        where,
        name,
        value,
        expected,
    )
    return int(row[name])


def number(row: Mapping[str, Any], name: str, where: str) -> float:
    """Return a finite number; true and false are 1 and 0."""
    value = row.get(name)
    require(
        isinstance(value, (bool, int, float)) and math.isfinite(value),
        where,
        name,
        value,
        "a finite number",
    )
    return float(row[name])


def text_or_empty(row: Mapping[str, Any], name: str, where: str) -> str:
    """Return a text, empty where the field is missing or null."""
    value = row.get(name)
    require(value is None or isinstance(value, str), where, name, value, "a text")
    return value or ""


def sequence(row: Mapping[str, Any], name: str, where: str) -> Sequence[Any]:
    """Return a list."""
    value = row.get(name)
    require(isinstance(value, list), where, name, value, "a list")
    return list(row[name])


def mapping(row: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """Return an object."""
    value = row.get(name)
    require(isinstance(value, Mapping), where, name, value, "an object")
    return dict(row[name])
