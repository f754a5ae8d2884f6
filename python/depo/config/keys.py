"""One documented key of a configuration section."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def key(default: Any, text: str) -> Any:
    """Declare a dataclass field with its default and the sentence that `--help` prints for it."""
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})
