"""One documented key of a configuration section.

Its declaration, its kind in words, and the check of its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from depo.types.errors import ConfigError

Section = TypeVar("Section")

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def key(
    default: Any,
    text: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """Declare a dataclass field with its default, its help sentence and its range.

    Args:
        default: Default value.
        text: The sentence that `--help` prints, without the range.
        ge: Least value.
        gt: Bound that the value must exceed.
        le: Greatest value.
        lt: Bound that the value must stay below.
    """
    bounds = Bounds(ge=ge, gt=gt, le=le, lt=lt)
    metadata = {"help": f"{text} {bounds}".rstrip(), "bounds": bounds}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The range of a number: at least, above, at most, below."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"[{self.ge:g}..{self.le:g}]"
        if self.ge is not None and self.lt is not None:
            return f"[{self.ge:g}..{self.lt:g})"
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        shown = ", ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)
        return f"[{shown}]" if shown else ""


def describe(hint: Any) -> str:
    """Return what a key of this type takes, in words.

    "an integer", "one of local, ray", "a table", ...
    """
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_member(each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        return (
            "a list of tables"
            if arguments[-1] is Ellipsis
            else f"a list of {len(arguments)} numbers"
        )
    return "a table" if get_origin(hint) is Mapping else _WORDS[hint]


def _member(hint: Any) -> str:
    return repr(get_args(hint)[0]) if get_origin(hint) is Literal else describe(hint)


def require(condition: bool, name: str, got: object, expected: str) -> None:
    """Raise a ConfigError about key `name` unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name}: got {got!r}, expected {expected}")


def from_preset(
    section: Callable[..., Section],
    presets: Mapping[str, Mapping[str, Any]],
    preset: str,
    overrides: Mapping[str, Any],
) -> Section:
    """Return a section with the settings of a preset and `overrides` on top.

    The section itself refuses a preset that does not exist.
    """
    return section(preset=preset, **{**presets.get(preset, {}), **overrides})


def check_section(name: str, section: Any) -> None:
    """Validate every value of a section against its declared choices and range.

    Raises:
        ConfigError: A value is not finite, none of the choices, or out of its range.
    """
    hints = get_type_hints(type(section))
    for item in fields(section):
        value, dotted = getattr(section, item.name), f"{name}.{item.name}"
        require(
            not isinstance(value, float) or math.isfinite(value), dotted, value, "a finite number"
        )
        if get_origin(hints[item.name]) is Literal:
            require(value in get_args(hints[item.name]), dotted, value, describe(hints[item.name]))
        bounds: Bounds = item.metadata.get("bounds", Bounds())
        if isinstance(value, (int, float)) and value not in bounds:
            words = [repr(word) for word in _words_of(hints[item.name])]
            expected = " or ".join([f"a value {bounds}", *words])
            raise ConfigError(f"{dotted}: got {value!r}, expected {expected}")


def _words_of(hint: Any) -> tuple[str, ...]:
    """Return the words that a key takes beside a number, such as `off`."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return tuple(get_args(each)[0] for each in members if get_origin(each) is Literal)
