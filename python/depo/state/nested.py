"""Nested state <-> what JSON can say, numpy arrays and torch tensors.

Never imports torch by itself, but where a state holds tensors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from depo.types.errors import StateError

if TYPE_CHECKING:
    import torch

_ARRAY, _TENSOR, _FLOAT = "$array", "$tensor", "$float"
_DTYPES = frozenset(
    [
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
    ]
)


class FlatState:
    """A state split into its JSON part, its arrays and its tensors.

    Args:
        state: Nested dicts and lists of None, bool, int, float, str, numpy arrays and torch
            tensors. Keys are texts that start neither with "$" nor with "__metadata__".

    Attributes:
        content: The JSON part, in which arrays and tensors have their names.
        arrays: Numpy arrays by name, row by row.
        tensors: Torch tensors by name, as they were.

    Raises:
        StateError: The state holds something that would not come back as it is; the message names
            its place.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.content = self._encode(state, ())

    def _encode(self, value: Any, path: tuple[str, ...]) -> Any:
        name = "/".join(
            key.replace("~", "~0").replace("/", "~1") for key in path
        )  # escaped, so that no two paths share a name
        if isinstance(value, Mapping):
            return {
                _checked(key, name): self._encode(child, (*path, key))
                for key, child in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._encode(child, (*path, str(i))) for i, child in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            return {_FLOAT: repr(float(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.ndarray) and value.dtype.name in _DTYPES:
            self.arrays[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            return {_ARRAY: name}
        if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
            self.tensors[name] = value
            return {_TENSOR: name}
        kind = (
            f"an array of {value.dtype}"
            if isinstance(value, np.ndarray)
            else f"{type(value).__module__}.{type(value).__qualname__}"
        )
        raise StateError(
            f"state {name}: got {kind}, expected None, bool, int, float, str, list, dict, a "
            f"numeric numpy array or a tensor"
        )


def nested(
    content: Any, arrays: Mapping[str, NDArray[Any]], tensors: Mapping[str, torch.Tensor]
) -> Any:
    """Return the state that `FlatState` split; tuples come back as lists."""
    if isinstance(content, list):
        return [nested(child, arrays, tensors) for child in content]
    if not isinstance(content, dict):
        return content
    if _ARRAY in content:
        return arrays[content[_ARRAY]]
    if _TENSOR in content:
        return tensors[content[_TENSOR]]
    if _FLOAT in content:
        return float(content[_FLOAT])
    return {key: nested(child, arrays, tensors) for key, child in content.items()}


def _checked(key: Any, name: str) -> str:
    if not isinstance(key, str) or key.startswith(("$", "__metadata__")):
        raise StateError(
            f"state {name}: got key {key!r}, expected a text that starts neither with $ nor with "
            f"__metadata__"
        )
    return key
