"""Small estimators and targets for the estimator's tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from depo.config import EstimatorConfig
from depo.estimator import BertDifficultyEstimator
from depo.types.records import TargetBatch

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{index}" for index in range(20))]
SMALL = EstimatorConfig(
    hidden_size=16, layers=1, heads=2, feed_forward=16, trunk_sizes=(16, 8), max_length=16
)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = [*WORDS, *special.values()]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        **special,
    )


def build(config: EstimatorConfig = SMALL, seed: int = 0) -> BertDifficultyEstimator:
    return BertDifficultyEstimator(config, word_tokenizer(), seed=seed)


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{index}" for index in rng.integers(20, size=rng.integers(1, 12)))
        for _ in range(count)
    ]


def targets(
    prompts: Sequence[str], rewards: ArrayLike, logprobs: float = 0.5, weights: ArrayLike = 1.0
) -> TargetBatch:
    ones = np.ones(len(prompts), np.float32)
    return TargetBatch(
        texts=prompts,
        reward_targets=np.asarray(rewards, np.float32),
        logprob_targets=ones * np.float32(logprobs),
        counts=ones * 8,
        weights=ones * np.asarray(weights, np.float32),
    )


def random_batches(count: int, seed: int) -> list[TargetBatch]:
    rng = np.random.default_rng(seed)
    return [
        targets(
            texts(6, seed * 100 + index), rng.integers(9, size=6) / 8, weights=rng.uniform(1, 5, 6)
        )
        for index in range(count)
    ]


def assert_same_state(one: BertDifficultyEstimator, other: BertDifficultyEstimator) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
