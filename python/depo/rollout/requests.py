"""Parts that all engines share: checks of a request, token limits, decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from depo.types.errors import ConfigError
from depo.types.records import BoolArray, Int64Array, Prompt


def check_request(
    prompts: Sequence[Prompt], group_size: int, keys: Sequence[int], temperature: float
) -> None:
    """Raise a ValueError that names an argument of `generate` out of its range."""
    if group_size < 1:
        raise ValueError(f"group_size: got {group_size}, expected at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected a finite number >= 0")
    if len(keys) != len(prompts):
        raise ValueError(f"keys: got {len(keys)}, expected one for each of {len(prompts)} prompts")


def check_limits(**limits: int) -> None:
    """Raise a ValueError that names the first limit below 1."""
    for name, value in limits.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")


def prompt_positions(config: PreTrainedConfig, max_new_tokens: int) -> int:
    """Return the model's positions that remain for a prompt beside `max_new_tokens`.

    Raises:
        ValueError: No position remains.
    """
    positions = (
        getattr(config.get_text_config(), "max_position_embeddings", None) or np.iinfo(np.int64).max
    )
    if positions <= max_new_tokens:
        raise ValueError(
            f"max_new_tokens: got {max_new_tokens}, expected less than the model's {positions} "
            f"positions"
        )
    return int(positions) - max_new_tokens


def end_tokens(
    given: Sequence[int] | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return the ids of the tokens that end a response, ascending.

    Without `given`, they are those of the model's generation config and of the tokenizer.

    Raises:
        ValueError: There is no such token.
    """
    if given is None:
        configured = (
            model.generation_config.eos_token_id if model.generation_config is not None else None
        )
        ids = configured if isinstance(configured, (list, tuple)) else [configured]
        given = [int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None]
    if not given:
        raise ValueError(
            "eos_token_ids: got none, expected at least one; neither the model's generation "
            "config nor the tokenizer names one"
        )
    return sorted(set(given))


def stop_tokens(stop: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the id of the token with the text `stop`, as a list; empty for an empty text.

    Raises:
        ConfigError: The text is not one token.
    """
    ids = [int(token) for token in tokenizer.encode(stop, add_special_tokens=False)]
    if stop and len(ids) != 1:
        raise ConfigError(
            f"rollout.stop: got {stop!r}, which is {len(ids)} tokens {ids} of the policy's "
            f"tokenizer, expected the text of one"
        )
    return ids


def decode_responses(
    response_ids: Sequence[Int64Array], finished: BoolArray, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return the texts of responses, without special tokens and the end token.

    The end token is cut off here, because a custom stop token may not be a special token.

    Args:
        response_ids: N arrays int64 [T].
        finished: bool [N], True where the last token is an end-of-sequence token.
        tokenizer: The policy's.
    """
    bodies = [
        (ids[:-1] if ended else ids).tolist()
        for ids, ended in zip(response_ids, finished, strict=True)
    ]
    return [str(text) for text in tokenizer.batch_decode(bodies, skip_special_tokens=True)]
