"""A tiny policy for runs without a checkpoint.

A tokenizer built from the prompts and a short supervised start on noisy demonstrations.

Noise is deliberate: with a share e of answer characters randomised, a policy that imitates the
demonstrations solves an answer of n characters with probability near (1 - e)^n. Pass rates then
fall smoothly with length, so that there is something for reinforcement learning to sharpen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import string
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from depo.config import SourceConfig, WarmStartConfig
from depo.data import load_prompts
from depo.data.tasks import size_of
from depo.types.errors import ConfigError
from depo.types.records import Int64Array, Prompt

FORMAT_VERSION = 1
"""Part of the cache key: raised whenever this file would build another policy from the same
settings.
"""

DEMONSTRATION_SEED_OFFSET = 500_000_000
"""Demonstrations of reasoning-gym tasks come from seeds this far from the pool's."""

DEMONSTRATIONS_PER_PROMPT = 4
"""Demonstrations of a reasoning-gym task per prompt of the pool."""

ROPE_THETA = 100.0
"""Base of the rotary embedding: fast rotations suit answers of a few tokens (loss .97 instead of
1.10 after 250 steps of the quickstart).
"""

LEARNING_RATE_WARMUP = 20
PIECE_PATTERN = r"[A-Za-z0-9]|[^A-Za-z0-9]+"

logger = logging.getLogger(__name__)


def warm_start_policy(
    sources: Sequence[SourceConfig],
    held_out: Sequence[SourceConfig],
    config: WarmStartConfig,
    threads: int,
) -> Path:
    """Return the directory of the warm-started policy.

    (model and tokenizer), training it first unless it is cached.

    Args:
        sources: Training sources; demonstrations have the same tasks and proportions.
        held_out: Evaluation sources; no demonstration of a reasoning-gym task shows a prompt of
            either.
        config: Sizes, steps and noise.
        threads: Torch threads, part of the cache key because float sums depend on it.
    """
    settings = {
        "format": FORMAT_VERSION,
        "sources": [asdict(source) for source in (*sources, *held_out)],
        "files": [_fingerprint(source) for source in (*sources, *held_out)],
        "reasoning_gym": version("reasoning-gym"),
        "config": {name: value for name, value in asdict(config).items() if name != "cache"},
        "threads": threads,
        "torch": torch.__version__,
    }
    digest = hashlib.blake2b(
        json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()
    target = Path(config.cache) / f"policy-{digest}"
    if target.is_dir():
        logger.info("warm start: using the cached policy %s", target)
        return target
    demonstrations = _demonstration_prompts(sources, held_out)
    tokenizer = build_tokenizer(demonstrations)
    model = _train(_demonstrations(demonstrations, tokenizer, config.noise_band), tokenizer, config)
    _publish(model, tokenizer, settings, target)
    return target


def outline_policy(
    sources: Sequence[SourceConfig], held_out: Sequence[SourceConfig], config: WarmStartConfig
) -> tuple[PreTrainedTokenizerFast, LlamaConfig]:
    """Return tokenizer and architecture of the warm-started policy, without training it.

    They are those that `warm_start_policy` makes of the same arguments.
    """
    tokenizer = build_tokenizer(_demonstration_prompts(sources, held_out))
    return tokenizer, _architecture(tokenizer, config)


def build_tokenizer(prompts: Sequence[Prompt]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per letter or digit, per run of other characters.

    Also per phrase that frames all prompts of a source.
    """
    texts_by_source: dict[str, list[str]] = {}
    for prompt in prompts:
        texts_by_source.setdefault(prompt.source, []).append(prompt.text)
    frames = sorted(
        {frame for texts in texts_by_source.values() for frame in _frames(texts)},
        key=len,
        reverse=True,
    )
    pieces = {
        piece
        for prompt in prompts
        for text in (prompt.text, str(prompt.answer))
        for piece in _pieces(text, frames)
    }
    words = ["<pad>", "<unk>", "<eos>", *sorted(pieces | set(string.ascii_letters + string.digits))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in words[:3]])
    tokenizer.add_tokens([AddedToken(frame, normalized=False) for frame in frames])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _frames(texts: Sequence[str]) -> set[str]:
    """Return the common start and end of all texts.

    Cut at a border between letters or digits and anything else.
    """
    prefix, suffix = _common_prefix(texts), _common_prefix([text[::-1] for text in texts])[::-1]
    prefix, suffix = re.sub(r"[A-Za-z0-9]+$", "", prefix), re.sub(r"^[A-Za-z0-9]+", "", suffix)
    return {frame for frame in (prefix, suffix) if len(frame) > 1} if len(texts) > 1 else set()


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    different = next(
        (
            index
            for index, (ours, theirs) in enumerate(zip(first, last, strict=False))
            if ours != theirs
        ),
        min(len(first), len(last)),
    )
    return first[:different]


def _pieces(text: str, frames: Sequence[str]) -> list[str]:
    for frame in frames:
        text = text.replace(frame, "")
    return re.findall(PIECE_PATTERN, text)


def _fingerprint(source: SourceConfig) -> str:
    path = Path(source.path)
    return (
        hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        if source.path and path.is_file()
        else ""
    )


def _demonstration_prompts(
    sources: Sequence[SourceConfig], held_out: Sequence[SourceConfig]
) -> list[Prompt]:
    """Generate fresh items of the tasks, without those that are trained or evaluated on.

    Rows of files demonstrate themselves.
    """
    tasks = [source for source in sources if source.task]
    reserved = {
        prompt.id
        for prompt in load_prompts(
            [source for source in (*sources, *held_out) if source.task], report_duplicates=False
        )
    }
    generated = load_prompts(
        [_demonstration_source(source) for source in tasks], report_duplicates=False
    )
    return [prompt for prompt in generated if prompt.id not in reserved] + load_prompts(
        [source for source in sources if not source.task]
    )


def _demonstration_source(source: SourceConfig) -> SourceConfig:
    return replace(
        source,
        seed=source.seed + DEMONSTRATION_SEED_OFFSET,
        count=size_of(source) * DEMONSTRATIONS_PER_PROMPT,
    )


@dataclass(frozen=True, slots=True)
class _Demonstration:
    prompt_ids: list[int]
    answer_ids: list[int]
    alphabet: Int64Array
    """Answer tokens of the same source, from which noise is drawn; empty: no noise."""
    band: str


def _train(
    demonstrations: Sequence[_Demonstration],
    tokenizer: PreTrainedTokenizerFast,
    config: WarmStartConfig,
) -> LlamaForCausalLM:
    """Supervised training on noisy demonstrations.

    Linear warm-up and decay, loss on answer tokens alone.
    """
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(_architecture(tokenizer, config))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / LEARNING_RATE_WARMUP, 1.0 - step / config.steps)
    )
    draws = np.random.default_rng(config.seed)
    shares = _shares(demonstrations, config.band_shares)
    for _ in track(range(config.steps), description="warm start", transient=True):
        chosen = [
            demonstrations[index]
            for index in draws.choice(len(demonstrations), size=config.batch_size, p=shares)
        ]
        loss = model(**_collate(chosen, draws, config, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def _shares(
    demonstrations: Sequence[_Demonstration], band_shares: Mapping[str, float]
) -> NDArray[np.float64]:
    """Return how often each demonstration is drawn, so that bands occur as `band_shares` says.

    A band it does not name does not occur.
    """
    bands = [demonstration.band for demonstration in demonstrations]
    sizes = Counter(bands)
    if band_shares and not set(band_shares) & set(bands):
        raise ConfigError(
            f"warm_start.band_shares: got {', '.join(band_shares)}, expected some of the bands of "
            f"data.train: {', '.join(sorted(set(bands)))}"
        )
    weights: NDArray[np.float64] = np.array(
        [band_shares.get(band, 0.0) / sizes[band] if band_shares else 1.0 for band in bands]
    )
    weights /= weights.sum()
    return weights


def _architecture(tokenizer: PreTrainedTokenizerFast, config: WarmStartConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _demonstrations(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerFast, noise_band: str
) -> list[_Demonstration]:
    prompt_ids = tokenizer([prompt.text for prompt in prompts]).input_ids
    answer_ids = tokenizer([str(prompt.answer) for prompt in prompts]).input_ids
    bands = [prompt.band for prompt in prompts]
    answers_by_source: dict[str, list[int]] = {prompt.source: [] for prompt in prompts}
    for prompt, band, ids in zip(prompts, bands, answer_ids, strict=True):
        answers_by_source[prompt.source].extend(ids if band == noise_band else [])
    alphabets = {
        source: np.unique(np.array(ids, np.int64)) for source, ids in answers_by_source.items()
    }
    rows = zip(prompt_ids, answer_ids, prompts, bands, strict=True)
    return [
        _Demonstration(prompt_row, answer_row, alphabets[prompt.source], band)
        for prompt_row, answer_row, prompt, band in rows
    ]


def _collate(
    chosen: Sequence[_Demonstration],
    draws: np.random.Generator,
    config: WarmStartConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, torch.Tensor]:
    """Return right-padded input_ids, attention_mask and labels (-100 outside of the answer)."""
    answers = [
        [*_with_noise(demonstration, draws, config), tokenizer.eos_token_id]
        for demonstration in chosen
    ]
    width = max(len(d.prompt_ids) + len(answer) for d, answer in zip(chosen, answers, strict=True))
    input_ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
    labels = torch.full((len(chosen), width), -100)
    for row, (demonstration, answer) in enumerate(zip(chosen, answers, strict=True)):
        start, end = len(demonstration.prompt_ids), len(demonstration.prompt_ids) + len(answer)
        input_ids[row, :end] = torch.tensor(demonstration.prompt_ids + answer)
        labels[row, start:end] = input_ids[row, start:end]
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != tokenizer.pad_token_id).long(),
        "labels": labels,
    }


def _with_noise(
    demonstration: _Demonstration, draws: np.random.Generator, config: WarmStartConfig
) -> list[int]:
    answer = np.array(demonstration.answer_ids)
    if not demonstration.alphabet.size:
        return demonstration.answer_ids
    noise = draws.choice(demonstration.alphabet, size=answer.size)
    return [
        int(token) for token in np.where(draws.random(answer.size) < config.noise, noise, answer)
    ]


def _publish(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, Any],
    target: Path,
) -> None:
    """Write beside the target and rename, so that a cache entry is either whole or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".policy-", dir=target.parent))
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / "warm_start.json").write_text(json.dumps(settings, indent=1, default=str))
    try:
        aside.rename(target)
    except OSError:
        shutil.rmtree(aside)
        if not target.is_dir():
            raise
