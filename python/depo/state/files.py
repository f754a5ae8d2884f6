"""Nested state <-> files of a directory. JSON and safetensors only: reading runs no code.

state.json          scalars, texts, lists; where the arrays and tensors belong
arrays.safetensors  numpy arrays
tensors.safetensors torch tensors, if there are any
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import numpy as safetensors_numpy

from depo.state.nested import FlatState, nested

if TYPE_CHECKING:
    import torch

STATE_FILE, ARRAYS_FILE, TENSORS_FILE = "state.json", "arrays.safetensors", "tensors.safetensors"


class StateFiles:
    """A state split into its JSON part, its arrays and its tensors, ready to be written.

    Args:
        state: See `depo.state.nested.FlatState`.

    Raises:
        StateError: The state holds something that would not come back as it is; the message names
            its place.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = FlatState(state)

    def write(self, directory: Path) -> None:
        """Write the files into an existing directory."""
        text = json.dumps(self._state.content, allow_nan=False, indent=1)
        (directory / STATE_FILE).write_text(text, encoding="utf-8")
        safetensors_numpy.save_file(self._state.arrays, directory / ARRAYS_FILE)
        if self._state.tensors:
            _save_tensors(self._state.tensors, directory / TENSORS_FILE)


def read_state(directory: Path) -> dict[str, Any]:
    """Return the state that was written into a directory.

    Tuples come back as lists, tensors on the CPU.
    """
    content = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    arrays = safetensors_numpy.load_file(directory / ARRAYS_FILE)
    tensors = _load_tensors(directory / TENSORS_FILE) if (directory / TENSORS_FILE).exists() else {}
    state: dict[str, Any] = nested(content, arrays, tensors)
    return state


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    # Copies: the format refuses tensors that share memory.
    save_file(
        {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        },
        path,
    )


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    # Copies: load_file maps the file, which must not bind tensors to a checkpoint on disk.
    return {name: tensor.clone() for name, tensor in load_file(path).items()}
