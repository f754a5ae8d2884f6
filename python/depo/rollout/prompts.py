"""Turn prompts into the policy's token ids, by the chat template or as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from depo.types.records import Int64Array, Prompt


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> list[Int64Array]:
    """Return the token ids of each prompt, int64 [P].

    Messages go through the chat template, with the header of the assistant's turn. Plain text gets
    the tokenizer's own special tokens, such as a beginning-of-sequence token.

    Raises:
        ValueError: A prompt is empty or longer than `max_prompt_tokens`, or has messages although
            the tokenizer has no chat template.
    """
    encoded = [_encode(prompt, tokenizer) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not 1 <= ids.size <= max_prompt_tokens:
            expected = f"1 to max_prompt_tokens = {max_prompt_tokens}"
            raise ValueError(
                f"prompt {prompt.id} (source {prompt.source!r}): got {ids.size} tokens, expected "
                f"{expected}; it begins {prompt.text[:80]!r}"
            )
    return encoded


def _encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Int64Array:
    if prompt.messages is None:
        ids = tokenizer(prompt.text).input_ids
    elif tokenizer.chat_template is None:
        raise ValueError(
            f"prompt {prompt.id} (source {prompt.source!r}): got messages, expected plain text "
            f"because the tokenizer has no chat template"
        )
    else:
        messages = [dict(message) for message in prompt.messages]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    return np.asarray(ids, dtype=np.int64)
