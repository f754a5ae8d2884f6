"""CPU time per generated token.

LocalEngine against `transformers`' own generate(num_return_sequences=G).

Work of the quickstart's kind: a 2-layer, 128-wide Qwen2 with 300 tokens, 16 prompts of 14 to 26
tokens, 8 responses each, a budget of 24 tokens. Weights are random; a bias on the end-of-sequence
logit makes responses end at varied lengths, and each row of the table is another bias. Both sides
run alternately in one process and one thread. The engine's time includes tokenization, log-probs
and decoding; generate's time includes none of these.

    python benches/rollout_vs_generate.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from depo.rollout.local import LocalEngine
from depo.sampler.keyed import derive_key
from depo.types.records import Prompt

VOCAB_SIZE, PAD, EOS = 300, 0, 1
N_PROMPTS, GROUP_SIZE, MAX_NEW_TOKENS = 16, 8, 24
EOS_BIASES = (5.0, 4.0, 3.0, -30.0)
"""Mean response length from about 3 tokens to the whole budget."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, VOCAB_SIZE)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def build_model(eos_bias: float) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=256,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    bias = torch.zeros(VOCAB_SIZE)
    bias[EOS] = eos_bias
    model.lm_head.bias = torch.nn.Parameter(bias)
    model.eval()
    return model


def run_generate(model: Qwen2ForCausalLM, batch: BatchEncoding, seed: int) -> int:
    """Return the number of generated tokens, padding behind the end of a response excluded."""
    torch.manual_seed(seed)
    with torch.inference_mode():
        ids = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            num_return_sequences=GROUP_SIZE,
            do_sample=True,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )[:, batch.input_ids.shape[1] :]
    behind_end = (ids == EOS).cumsum(1) - (ids == EOS).long() > 0
    return int((~behind_end).sum())


def run_engine(engine: LocalEngine, prompts: list[Prompt], seed: int) -> int:
    keys = [derive_key(seed, "bench", index) for index in range(len(prompts))]
    return sum(
        group.n_tokens for group in engine.generate(prompts, GROUP_SIZE, keys, temperature=1.0)
    )


def cpu_ms_and_tokens(run: Callable[[], int]) -> tuple[float, int]:
    start = time.process_time()
    tokens = run()
    return (time.process_time() - start) * 1e3, tokens


def compare(
    eos_bias: float, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast, rounds: int
) -> list[str]:
    """Return one row of the table."""
    model = build_model(eos_bias)
    engine = LocalEngine(
        model,
        tokenizer,
        max_new_tokens=MAX_NEW_TOKENS,
        sequences_per_batch=256,
        max_prompt_tokens=64,
    )
    batch = tokenizer([prompt.text for prompt in prompts], return_tensors="pt", padding=True)
    pairs = []
    for seed in range(rounds + 1):
        ours = cpu_ms_and_tokens(lambda seed=seed: run_engine(engine, prompts, seed))
        pairs.append((ours, cpu_ms_and_tokens(lambda seed=seed: run_generate(model, batch, seed))))
    ours, theirs = np.array(pairs[1:]).transpose(1, 0, 2)  # the first round warms up
    ratios = np.sort((theirs[:, 0] / theirs[:, 1]) / (ours[:, 0] / ours[:, 1]))
    cells = [
        ours[:, 1].mean() / (N_PROMPTS * GROUP_SIZE),
        np.median(ours[:, 0]),
        np.median(theirs[:, 0]),
    ]
    per_token = [np.median(side[:, 0] / side[:, 1]) * 1e3 for side in (ours, theirs)]
    quartiles = (
        f"{np.median(ratios):.2f} ({np.quantile(ratios, 0.25):.2f} .. "
        f"{np.quantile(ratios, 0.75):.2f})"
    )
    return [*(f"{cell:.1f}" for cell in cells), *(f"{cell:.0f}" for cell in per_token), quartiles]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed pairs per row")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    draws = np.random.default_rng(0)
    lengths = draws.integers(14, 27, size=N_PROMPTS)
    prompts = [
        Prompt(text=" ".join(f"w{i}" for i in draws.integers(2, VOCAB_SIZE, size=length)))
        for length in lengths
    ]
    table = Table(
        "mean tokens",
        "engine ms",
        "generate ms",
        "engine us/token",
        "generate us/token",
        "ratio per token (quartiles)",
        title="CPU time, medians",
    )
    tokenizer = build_tokenizer()
    for eos_bias in EOS_BIASES:
        table.add_row(*compare(eos_bias, prompts, tokenizer, rounds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
