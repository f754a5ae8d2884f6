"""Nested state <-> files of a directory. JSON and safetensors only: reading runs no code.

state.json          scalars, texts, lists; where the arrays and tensors belong
arrays.safetensors  numpy arrays
tensors.safetensors torch tensors, if there are any
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors_numpy

from depo.errors import StateError

if TYPE_CHECKING:
    import torch

STATE_FILE, ARRAYS_FILE, TENSORS_FILE = "state.json", "arrays.safetensors", "tensors.safetensors"
_ARRAY, _TENSOR, _FLOAT = "$array", "$tensor", "$float"
_DTYPES = frozenset(["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "complex64"])


class StateFiles:
    """A state split into its JSON part, its arrays and its tensors, ready to be written.

    Args:
        state: Nested dicts and lists of None, bool, int, float, str, numpy arrays and torch tensors. Keys are texts that start neither with "$" nor
            with "__metadata__".

    Raises:
        StateError: The state holds something that would not come back as it is; the message names its place.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._content = self._encode(state, ())

    def write(self, directory: Path) -> None:
        """Write the files into an existing directory."""
        text = json.dumps(self._content, allow_nan=False, indent=1)
        (directory / STATE_FILE).write_text(text, encoding="utf-8")
        safetensors_numpy.save_file(self._arrays, directory / ARRAYS_FILE)
        if self._tensors:
            _save_tensors(self._tensors, directory / TENSORS_FILE)

    def _encode(self, value: Any, path: tuple[str, ...]) -> Any:
        name = "/".join(key.replace("~", "~0").replace("/", "~1") for key in path)  # escaped, so that no two paths share a name
        if isinstance(value, Mapping):
            return {_checked(key, name): self._encode(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._encode(child, (*path, str(i))) for i, child in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            return {_FLOAT: repr(float(value))}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.ndarray) and value.dtype.name in _DTYPES:
            self._arrays[name] = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
            return {_ARRAY: name}
        if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
            self._tensors[name] = value
            return {_TENSOR: name}
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise StateError(f"state {name}: got {kind}, expected None, bool, int, float, str, list, dict, a numeric numpy array or a tensor")


def read_state(directory: Path) -> dict[str, Any]:
    """Return the state that was written into a directory; tuples come back as lists, tensors on the CPU."""
    content = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    arrays = safetensors_numpy.load_file(directory / ARRAYS_FILE)
    tensors = _load_tensors(directory / TENSORS_FILE) if (directory / TENSORS_FILE).exists() else {}
    state: dict[str, Any] = _decode(content, arrays, tensors)
    return state


def _decode(value: Any, arrays: Mapping[str, NDArray[Any]], tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(child, arrays, tensors) for child in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return arrays[value[_ARRAY]]
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _FLOAT in value:
        return float(value[_FLOAT])
    return {key: _decode(child, arrays, tensors) for key, child in value.items()}


def _checked(key: Any, name: str) -> str:
    if not isinstance(key, str) or key.startswith(("$", "__metadata__")):
        raise StateError(f"state {name}: got key {key!r}, expected a text that starts neither with $ nor with __metadata__")
    return key


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    # Copies: the format refuses tensors that share memory.
    save_file({name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    # Copies: load_file maps the file, which must not bind tensors to a checkpoint on disk.
    return {name: tensor.clone() for name, tensor in load_file(path).items()}
