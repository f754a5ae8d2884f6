"""Tiny policies of several architectures, their tokenizer and prompts.

For the tests of rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from depo.rollout.local import LocalEngine
from depo.types.records import Prompt, RolloutGroup

VOCAB_SIZE = 40
PAD, EOS = 0, 1
IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **IDS,
}
GPT_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    **IDS,
}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2_tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen2_untied_eager": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, tie_word_embeddings=False, attn_implementation="eager")
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT_SIZES)),
    "gptj_mask_by_model": lambda: GPTJForCausalLM(GPTJConfig(**GPT_SIZES, rotary_dim=8)),
    "mistral_sliding_window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
    "lfm2_recurrent": lambda: Lfm2ForCausalLM(
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
    ),
}
PROMPT_LENGTHS = (9, 2, 6, 2, 12, 5)


def build_model(name: str = "qwen2_tied") -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, VOCAB_SIZE)}}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_only, pad_token="<pad>", eos_token="<eos>"
    )


def word_prompts() -> list[Prompt]:
    draws = np.random.default_rng(0)
    return [
        Prompt(text=" ".join(f"w{i}" for i in draws.integers(2, VOCAB_SIZE, size=n)))
        for n in PROMPT_LENGTHS
    ]


def build_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: object
) -> LocalEngine:
    return LocalEngine(
        model,
        tokenizer,
        **{"max_new_tokens": 12, "sequences_per_batch": 64, "max_prompt_tokens": 40, **options},
    )


def flat_responses(groups: Sequence[RolloutGroup]) -> list[list[int]]:
    return [ids.tolist() for group in groups for ids in group.response_ids]
