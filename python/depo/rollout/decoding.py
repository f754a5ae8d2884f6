"""Decode a batch of rows by one token per step, from prompts that are prefilled once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from depo.rollout.kv_cache import plain_attention_dtype, preallocate
from depo.types.records import Int64Array


class DecodingRows:
    """R rows of unfinished text: their keys and values, padding and positions.

    Each prompt is prefilled once for all rows that continue it.

    Attributes:
        logits_RV: Logits of the next token of every row.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_ids: Sequence[Int64Array],
        prompt_of_row: Int64Array,
        max_new_tokens: int,
    ) -> None:
        """Prefill the prompts.

        Args:
            model: Causal LM in evaluation mode.
            prompt_ids: Prompts, int64 [P] each.
            prompt_of_row: The prompt that each row continues, int64 [R] into `prompt_ids`.
            max_new_tokens: Token budget of a row.
        """
        self._model = model
        self._length = max(ids.size for ids in prompt_ids)
        padding_B = torch.tensor(
            [self._length - ids.size for ids in prompt_ids], device=model.device
        )
        self._cache = DynamicCache(config=model.config)
        logits_BV = self._prefill(prompt_ids, padding_B)
        rows = torch.as_tensor(prompt_of_row, device=model.device)
        capacity = self._length + max_new_tokens
        preallocate(self._cache, rows, capacity)
        self.logits_RV = logits_BV[rows]
        self._position_R1 = (self._length - padding_B)[rows, None]
        self._mask = self._decoding_mask(padding_B[rows], capacity) if padding_B.any() else None

    def append(self, tokens_R: Tensor) -> None:
        """Append one token, int64 [R], to every row and compute the logits of the next."""
        self._length += 1
        mask = None if self._mask is None else self._mask[..., : self._length]
        self.logits_RV = self._next_logits(tokens_R[:, None], mask, self._position_R1)
        self._position_R1 = self._position_R1 + 1

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not among `rows` (int64 indices)."""
        self._cache.reorder_cache(cast(torch.LongTensor, rows))
        self._position_R1 = self._position_R1[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _prefill(self, prompt_ids: Sequence[Int64Array], padding_B: Tensor) -> Tensor:
        """Fill the cache from left-padded prompts and return the logits after each, [B, V]."""
        ids_BP = torch.zeros(len(prompt_ids), self._length, dtype=torch.int64)
        for row_P, ids in zip(ids_BP, prompt_ids, strict=True):
            row_P[self._length - ids.size :] = torch.from_numpy(ids)
        index_BP = torch.arange(self._length, device=padding_B.device) - padding_B[:, None]
        mask_BP = (index_BP >= 0).long() if padding_B.any() else None
        last_only = (
            {"logits_to_keep": 1}
            if "logits_to_keep" in inspect.signature(self._model.forward).parameters
            else {}
        )
        return self._next_logits(
            ids_BP.to(padding_B.device), mask_BP, index_BP.clamp(min=0), **last_only
        )

    def _next_logits(
        self, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor, **options: int
    ) -> Tensor:
        output = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
            **options,
        )
        logits_RV: Tensor = output.logits[:, -1]
        return logits_RV

    def _decoding_mask(self, padding_R: Tensor, capacity: int) -> Tensor:
        """Return the mask of all positions up to `capacity`.

        It is int64 [R, capacity] with 1 for tokens. Models that accept it get the additive mask [R,
        1, 1, capacity], which they would otherwise build at every step.
        """
        is_token = torch.arange(capacity, device=padding_R.device) >= padding_R[:, None]
        dtype = plain_attention_dtype(self._cache)
        attention = self._model.config.get_text_config()._attn_implementation
        if (
            dtype is None
            or attention not in ("sdpa", "eager")
            or not self._model._supports_attention_backend
        ):
            return is_token.long()
        return torch.zeros(is_token.shape, dtype=dtype, device=is_token.device).masked_fill(
            ~is_token, torch.finfo(dtype).min
        )[:, None, None]
