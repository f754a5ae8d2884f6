"""Hold the keys and values of decoding rows in buffers that are allocated once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One attention layer's keys and values with room for `capacity` positions.

    `keys` and `values` are views of the filled part. Appending a token writes one position per row;
    DynamicLayer copies all positions for each token.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, capacity: int) -> None:
        """Copy the rows `rows` of prefilled keys and values into buffers.

        Args:
            keys: Prefilled keys, [B, heads, P, size].
            values: Prefilled values, [B, heads, P, size].
            rows: Rows to hold, int64 [R], repeats allowed.
            capacity: Positions of a buffer, >= P.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._capacity = capacity
        self._length = keys.shape[-2]
        self._hold(keys, values, rows)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, int64 [R], repeats allowed, in new buffers."""
        self._hold(
            self._key_buffer[:, :, : self._length],
            self._value_buffer[:, :, : self._length],
            beam_idx,
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append positions, [R, heads, T, size], and return all keys and values so far."""
        start = self._length
        self._length += key_states.shape[-2]
        self._key_buffer[:, :, start : self._length] = key_states
        self._value_buffer[:, :, start : self._length] = value_states
        return self._show_filled()

    def _hold(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        self._key_buffer, self._value_buffer = (
            self._gathered(keys, rows),
            self._gathered(values, rows),
        )
        self._show_filled()

    def _gathered(self, states: Tensor, rows: Tensor) -> Tensor:
        _, heads, length, size = states.shape
        buffer = states.new_empty(rows.numel(), heads, self._capacity, size)
        torch.index_select(states, 0, rows, out=buffer[:, :, :length])
        return buffer

    def _show_filled(self) -> tuple[Tensor, Tensor]:
        keys, values = (
            self._key_buffer[:, :, : self._length],
            self._value_buffer[:, :, : self._length],
        )
        self.keys, self.values = keys, values
        return keys, values


def preallocate(cache: Cache, rows: Tensor, capacity: int) -> None:
    """Hold the rows `rows` of a prefilled cache in preallocated layers.

    Every full-attention layer becomes a `PreallocatedLayer`; rows are int64 [R], repeats allowed.
    Layers of other kinds (sliding window, recurrent) are kept, because they do not grow.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            cache.layers[index] = PreallocatedLayer(layer.keys, layer.values, rows, capacity)
        else:
            layer.reorder_cache(cast(torch.LongTensor, rows))


def plain_attention_dtype(cache: Cache) -> torch.dtype | None:
    """Return the type of the keys if one mask serves all layers, else None.

    One mask serves where every layer attends to all positions before its own.
    """
    dtypes = [
        layer.dtype if isinstance(layer, PreallocatedLayer) else None for layer in cache.layers
    ]
    return None if None in dtypes else dtypes[0]
