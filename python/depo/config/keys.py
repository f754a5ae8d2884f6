"""One documented key of a configuration section.

Its declaration, its kind in words, and the check of its value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from depo.types.errors import ConfigError

Section = TypeVar("Section")

_NUMBER = r"\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"\[(?:(?P<least>>=?) "
    rf"(?P<bound>{_NUMBER})\]|(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<end>[\])]))$"
)
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def key(default: Any, text: str) -> Any:
    """Declare a dataclass field with its default and the sentence that `--help` prints for it.

    A range that ends the sentence, `[>= 1]`, `[> 0]`, `[0..1]` or `[0..1)`, is enforced by
    `check_section`.
    """
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def describe(hint: Any) -> str:
    """Return what a key of this type takes, in words.

    "an integer", "one of local, ray", "a table", ...
    """
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        return (
            "a list of tables"
            if arguments[-1] is Ellipsis
            else f"a list of {len(arguments)} numbers"
        )
    return "a table" if get_origin(hint) is Mapping else _WORDS[hint]


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
    """Hold every value of a section against the choices and the range that its key declares.

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
        bounds = _RANGE.search(item.metadata["help"])
        if bounds:
            require(_within(value, bounds), dotted, value, "a value " + bounds.group())


def _within(value: float, bounds: re.Match[str]) -> bool:
    if bounds["least"]:
        bound = float(bounds["bound"])
        return value >= bound if bounds["least"] == ">=" else value > bound
    low, high = float(bounds["low"]), float(bounds["high"])
    return low <= value <= high if bounds["end"] == "]" else low <= value < high
