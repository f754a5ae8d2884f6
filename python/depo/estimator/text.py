"""From prompt text to token ids of bounded length.

What does not fit is cut by a stated policy and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from depo.types.errors import ConfigError

Overflow = Literal["head", "tail", "head_tail"]

logger = logging.getLogger(__name__)


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside an encoder.

    Raises:
        ConfigError: There is no such directory.
    """
    if not Path(directory).is_dir():
        raise ConfigError(
            f"estimator.model: got {str(directory)!r}, expected a directory with a Hugging Face "
            f"encoder and its tokenizer"
        )
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, local_files_only=True
    )
    return tokenizer


class TextEncoder:
    """Tokenizes prompts as `[first] content [last]`.

    `first` is the position that CLS pooling reads: the tokenizer's CLS token, or where it has none
    (decoder tokenizers) its BOS, EOS or padding token, which then only serves as a constant. `last`
    is the SEP token, left out where the tokenizer has none.

    Attributes:
        seen: Prompts encoded since `take_overflow_share`.
        overflowed: Those of them that were longer than the limit.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, overflow: Overflow
    ) -> None:
        """Bind a tokenizer.

        Args:
            tokenizer: Any Hugging Face tokenizer.
            max_length: Most tokens of a prompt, first and last included.
            overflow: Which part of a longer prompt stays: its head, its tail, or half of each.
        """
        self.tokenizer = tokenizer
        self.seen = 0
        self.overflowed = 0
        candidates = (
            tokenizer.cls_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        self._first = [next((token for token in candidates if token is not None), 0)]
        self._last = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
        self._pad = tokenizer.pad_token_id or 0
        self._room = max_length - len(self._first) - len(self._last)
        self._overflow = overflow
        self._warned = False

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, at most `max_length` of them."""
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        contents: list[list[int]] = encoded["input_ids"]
        overflowed = sum(len(content) > self._room for content in contents)
        self.seen += len(contents)
        self.overflowed += overflowed
        if overflowed and not self._warned:
            self._warned = True
            longest = max(map(len, contents))
            logger.warning(
                "the estimator reads only the %s of prompts longer than %d tokens (now: %d of %d "
                "prompts, longest %d); raise estimator.max_length to read more",
                self._overflow,
                self._room,
                overflowed,
                len(contents),
                longest,
            )
        return [self._first + self._cut(content) + self._last for content in contents]

    def pad(self, rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return token ids int64 [M, T] padded on the right.

        Also the mask int64 [M, T] (1 = token).
        """
        width = max(map(len, rows))
        ids_MT = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in rows])
        lengths_M = torch.tensor([len(row) for row in rows])
        mask_MT = (torch.arange(width) < lengths_M[:, None]).long()
        return ids_MT.to(device), mask_MT.to(device)

    def take_overflow_share(self) -> float:
        """Return the share of prompts that were cut since the last call (0 if there was none).

        Also start counting anew.
        """
        share = self.overflowed / max(self.seen, 1)
        self.seen = self.overflowed = 0
        return share

    def _cut(self, content: list[int]) -> list[int]:
        if len(content) <= self._room:
            return content
        head = {"head": self._room, "tail": 0, "head_tail": (self._room + 1) // 2}[self._overflow]
        return content[:head] + content[len(content) - (self._room - head) :]
