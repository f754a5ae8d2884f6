"""Frequent saves of a sampler over a large pool.

The caller waits for a copy in memory, a thread writes it, and a crash at any moment leaves a whole
one.

a.safetensors, b.safetensors   the two newest snapshots; overwritten in turn, each with its number
and a checksum in its metadata

A snapshot holds what `PromptSampler.state_dict` does, the estimator's state and `extra`. Reading
runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from depo import _core
from depo.sampler import PromptSampler
from depo.state.nested import FlatState, nested
from depo.types.errors import StateError

if TYPE_CHECKING:
    import torch

_CONTENT = "content"
_TENSOR = "tensor:"
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
"""Element types by their names in safetensors."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Bytes = tuple[str, list[int], NDArray[np.uint8]]
"""Element type as safetensors names it, shape, bytes."""


@dataclass(frozen=True, slots=True)
class LoadedSnapshot:
    """What became of a load.

    Attributes:
        generation: Number of the snapshot, from 1 on.
        matched: Prompts in the snapshot and in the pool.
        missing: Prompts in the snapshot alone.
        added: Prompts in the pool alone.
        extra: What `save` was given; tuples come back as lists, tensors on the CPU.
    """

    generation: int
    matched: int
    missing: int
    added: int
    extra: dict[str, Any]


class SnapshotStore:
    """Two files in a directory that hold the newest snapshots of a sampler.

    One store at a time may write to a directory, and one thread to a store.

    `save` copies the state into memory that is kept from save to save, as much again as the state,
    and returns; a thread writes it. A save while the last one is being written waits for it first.
    An error of the thread is raised by the next call. A program that ends, also by Ctrl-C, waits
    for the thread; one that is killed leaves the snapshot before.

    Args:
        directory: Made if missing.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, directory: Path | str) -> None:
        self._slots = _core.SnapshotSlots(Path(directory))
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="depo-snapshot")
        self._pending: Future[int] | None = None

    def save(
        self, sampler: PromptSampler, *, extra: Mapping[str, Any] | None = None, wait: bool = False
    ) -> None:
        """Save the state at this moment over the older of the two snapshots.

        Args:
            sampler: The sampler; with its estimator, if it has one.
            extra: What the caller needs to continue, its step for example: a nested state as
                `depo.state.nested.FlatState` takes it.
            wait: Return when it is on the disk.

        Raises:
            OSError: This snapshot (`wait`) or the last one could not be written. The newest whole
                one is still there, and the next save tries again.
            StateError: `extra` or the estimator's state holds something that would not come back as
                it is; nothing is written.
        """
        self.wait()
        with sampler.undisturbed():  # of sampler and estimator at the same moment
            estimator = sampler.estimator.state_dict() if sampler.estimator else None
            state = sampler.state_dict(of_core=self._slots.capture)
        flat = FlatState({"sampler": state, "estimator": estimator, "extra": dict(extra or {})})
        arrays = {name: _bytes_of(array) for name, array in flat.arrays.items()}
        tensors = {
            _TENSOR + name: _bytes_of_tensor(tensor) for name, tensor in flat.tensors.items()
        }
        self._slots.attach({_CONTENT: json.dumps(flat.content, allow_nan=False)}, arrays | tensors)
        self._pending = self._writer.submit(self._slots.write)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when the last save is on the disk.

        Raises:
            OSError: It could not be written.
        """
        if self._pending is not None:
            try:
                self._pending.result()
            finally:
                self._pending = None if self._pending.done() else self._pending

    def load(self, sampler: PromptSampler, *, strict: bool = True) -> LoadedSnapshot | None:
        """Restore the newest whole snapshot.

        Args:
            sampler: A sampler with the same group size, seed and belief, and with an estimator if
                and only if the saved one had one.
            strict: The pool must be the same. Otherwise what is known of each prompt is carried
                over by id.

        Returns:
            What became of it; None if no save was ever finished here.

        Raises:
            StateError: No snapshot is whole, or it does not fit the sampler; nothing has changed
                then.
            OSError: They cannot be read, or the last save could not be written.
        """
        self.wait()
        saved = self._slots.read(sampler._core)
        if saved is None:
            return None
        texts, arrays = saved.detach()
        tensors = {
            name.removeprefix(_TENSOR): _tensor_of(array)
            for name, array in arrays.items()
            if name.startswith(_TENSOR)
        }
        state = nested(
            json.loads(texts[_CONTENT]),
            {
                name: _array_of(array)
                for name, array in arrays.items()
                if not name.startswith(_TENSOR)
            },
            tensors,
        )
        return LoadedSnapshot(
            generation=saved.generation,
            extra=state["extra"],
            **_restore(sampler, state, saved, strict),
        )


def _restore(
    sampler: PromptSampler, state: Mapping[str, Any], saved: _core.SavedState, strict: bool
) -> dict[str, int]:
    """Restore estimator and sampler, or neither."""
    estimator = sampler.estimator
    if (estimator is None) != (state["estimator"] is None):
        has, expected = (
            ("no estimator", "one") if state["estimator"] is None else ("an estimator", "none")
        )
        raise StateError(
            f"snapshot: got {has}, expected {expected}, as this sampler was built with"
        )
    of_sampler = {**state["sampler"], "core": saved}
    if estimator is None:
        return sampler.load_state_dict(of_sampler, strict=strict)
    with sampler.undisturbed():
        before = estimator.state_dict()
        estimator.load_state_dict(state["estimator"])
        try:
            return sampler.load_state_dict(of_sampler, strict=strict)
        except BaseException:
            estimator.load_state_dict(before)
            raise


def _bytes_of(array: NDArray[Any]) -> Bytes:
    return _NAMES[array.dtype.name], list(array.shape), array.reshape(-1).view(np.uint8)


def _array_of(array: Bytes) -> NDArray[Any]:
    dtype, shape, content = array
    return content.view(_DTYPES[dtype]).reshape(shape)


def _bytes_of_tensor(tensor: torch.Tensor) -> Bytes:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _NAMES:
        raise StateError(f"estimator: got a tensor of {dtype}, expected one of {', '.join(_NAMES)}")
    return (
        _NAMES[dtype],
        list(tensor.shape),
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(),
    )


def _tensor_of(array: Bytes) -> torch.Tensor:
    import torch

    dtype, shape, content = array
    return torch.from_numpy(content).view(getattr(torch, _DTYPES[dtype])).reshape(shape)
