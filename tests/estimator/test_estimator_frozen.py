"""A frozen encoder: its features are computed once, and nobody can tell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from depo.config import EstimatorConfig
from depo.estimator import BertDifficultyEstimator
from depo.estimator.features import FrozenFeatures
from depo.sampler.calibration import auroc
from depo.types.errors import StateError
from tests.estimator.estimator_helpers import (
    SMALL,
    assert_same_state,
    build,
    random_batches,
    targets,
    texts,
    word_tokenizer,
)

FROZEN = EstimatorConfig(**{**asdict(SMALL), "encoder_lr_scale": 0.0})
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "layers": 1,
    "heads": 2,
    "feed_forward": 16,
    "trunk_sizes": (16, 8),
    "max_length": 16,
}
LONG = " ".join(["w1"] * 40)


def forgetful(
    config: EstimatorConfig = FROZEN, seed: int = 0, capacity: int = 0
) -> BertDifficultyEstimator:
    """Return an estimator that remembers at most `capacity` texts."""
    estimator = build(config, seed)
    estimator._frozen = FrozenFeatures(
        estimator._model, estimator._text, estimator._device, capacity=capacity
    )
    return estimator


def encoder_directory(path: Path, dropout: float) -> str:
    """Write a BERT with dropout everywhere, and its tokenizer."""
    word_tokenizer(cls_token="[CLS]", sep_token="[SEP]").save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=25,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(path)
    return str(path)


@settings(max_examples=10, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["predict", "update"]), st.integers(0, 3)), min_size=1, max_size=8
    ),
    capacity=st.integers(0, 12),
    pooling=st.sampled_from(["cls", "mean"]),
)
def test_memory_of_any_size_changes_no_bit(
    calls: list[tuple[str, int]], capacity: int, pooling: str
) -> None:
    config = EstimatorConfig(**{**asdict(FROZEN), "pooling": pooling})
    warm, cold = build(config), forgetful(config, capacity=capacity)
    warm.predict([text for seed in range(4) for text in texts(9, seed)])
    cold._text.seen = warm._text.seen
    for call, seed in calls:
        if call == "predict":
            np.testing.assert_array_equal(
                warm.predict([*texts(9, seed), LONG]), cold.predict([*texts(9, seed), LONG])
            )
        else:
            assert warm.update(random_batches(2, seed)) == cold.update(random_batches(2, seed))
    assert_same_state(warm, cold)


def test_each_text_is_encoded_once() -> None:
    estimator = build(FROZEN)
    encoded: list[int] = []
    estimator._model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    prompts = sorted(set(texts(20)))
    for _ in range(3):
        estimator.predict(prompts)
        estimator.update(
            [
                targets(prompts, np.linspace(0, 1, len(prompts))),
                targets([*prompts[:3], *prompts[:3]], [0.5] * 6),
            ]
        )
    assert len(encoded) == len(prompts)


def test_memory_is_bounded_and_drops_the_oldest() -> None:
    estimator = forgetful(capacity=3)
    assert estimator._frozen is not None
    estimator.predict(["w1", "w2", "w3", "w4", "w2"])
    assert list(estimator._frozen._remembered) == ["w2", "w3", "w4"]


def test_a_cut_prompt_counts_whenever_it_is_asked_for() -> None:
    estimator, trained = build(FROZEN), build()
    for one in (estimator, trained):
        for _ in range(3):
            one.predict([LONG, "w1", LONG])
    assert (
        (estimator._text.seen, estimator._text.overflowed)
        == (trained._text.seen, trained._text.overflowed)
        == (9, 6)
    )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_are_what_the_encoder_says_without_dropout(pooling: str, tmp_path: Path) -> None:
    model = encoder_directory(tmp_path, dropout=0.5)
    estimator = build(
        EstimatorConfig(
            **{**asdict(FROZEN), "model": model, "pooling": pooling, "trunk_dropout": 0.0}
        )
    )
    assert estimator._frozen is not None
    estimator.update(random_batches(1, 0))  # leaves the model in training mode
    features_MH = estimator._frozen(["w1 w2", "w3", LONG])
    reference = BertModel.from_pretrained(model)  # in evaluation mode
    for row, ids in zip(
        features_MH, ([23, 4, 5, 24], [23, 6, 24], [23, *[4] * 14, 24]), strict=True
    ):
        hidden_TH = (
            reference(input_ids=torch.tensor([ids])).last_hidden_state[0].detach().double().numpy()
        )
        pooled_H = hidden_TH[0] if pooling == "cls" else hidden_TH.mean(0)
        np.testing.assert_allclose(row, pooled_H, atol=1e-5)


def test_dropout_of_the_encoder_acts_in_training_alone_and_only_where_it_is_trained(
    tmp_path: Path,
) -> None:
    still = {
        "model": encoder_directory(tmp_path, dropout=0.5),
        "trunk_dropout": 0.0,
        "learning_rate": 1e-12,
        "weight_decay": 0.0,
    }
    for scale, distinct in ((0.0, 1), (1.0, 3)):
        estimator = build(
            EstimatorConfig(
                **{**asdict(SMALL), **still, "encoder_lr_scale": scale, "ranking_weight": 0.0}
            )
        )
        with torch.no_grad():
            estimator._model.score_head.weight.normal_(
                std=1.0, generator=torch.Generator().manual_seed(0)
            )
        losses = [
            round(estimator.update(random_batches(1, 0))["estimator/score_loss"], 5)
            for _ in range(3)
        ]
        assert len(set(losses)) == distinct


def test_a_resumed_estimator_continues_bit_for_bit_and_forgets_its_own_features() -> None:
    straight, resumed = build(FROZEN, seed=3), build(FROZEN, seed=4)
    straight.update(random_batches(2, 0))
    resumed.predict(texts(5))  # features of another encoder
    resumed.load_state_dict(straight.state_dict())
    for step in range(1, 4):
        assert straight.update(random_batches(2, step)) == resumed.update(random_batches(2, step))
        np.testing.assert_array_equal(straight.predict(texts(5)), resumed.predict(texts(5)))
    assert_same_state(straight, resumed)


def test_company_does_not_change_the_features() -> None:
    estimator, other = build(FROZEN), build(FROZEN)
    assert estimator._frozen is not None and other._frozen is not None
    prompts = texts(12)
    together_MH = estimator._frozen(prompts)
    np.testing.assert_array_equal(
        together_MH, np.concatenate([other._frozen([text]) for text in reversed(prompts)])[::-1]
    )


@pytest.mark.parametrize("config", [SMALL, FROZEN])
def test_an_estimator_of_an_earlier_run_is_a_model_to_start_from(
    config: EstimatorConfig, tmp_path: Path
) -> None:
    earlier = build(config, seed=3)
    for step in range(3):
        earlier.update(random_batches(2, step))
    earlier.save_pretrained(tmp_path)
    later = build(EstimatorConfig(**{**asdict(config), "model": str(tmp_path)}), seed=8)
    np.testing.assert_array_equal(later.predict(texts(10)), earlier.predict(texts(10)))
    assert later.version == 0
    later.update(random_batches(1, 9))
    assert not np.array_equal(later.predict(texts(10)), earlier.predict(texts(10)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk_sizes": (32, 8)}, "got shape"),
        ({"pooling": "cls"}, "estimator.pooling: got 'cls', expected 'mean'"),
    ],
)
def test_heads_of_another_model_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    build(FROZEN).save_pretrained(tmp_path)
    with pytest.raises(StateError, match=message):
        build(EstimatorConfig(**{**asdict(FROZEN), "model": str(tmp_path), **change}))


def test_the_trunk_learns_which_words_are_hard_from_frozen_features() -> None:
    estimator = build(
        EstimatorConfig(
            **{**asdict(FROZEN), "hidden_size": 32, "trunk_sizes": (64, 32), "learning_rate": 5e-3}
        )
    )
    rng = np.random.default_rng(0)
    pool = texts(400, 1)
    for _ in range(60):
        prompts = [pool[index] for index in rng.integers(len(pool), size=32)]
        estimator.update(
            [
                targets(
                    prompts,
                    rng.binomial(8, [0.9 if "w1" in text.split() else 0.1 for text in prompts]) / 8,
                )
            ]
        )
    unseen = texts(200, 9)
    assert auroc(estimator.predict(unseen), ["w1" in text.split() for text in unseen]) > 0.85


def test_a_random_encoder_that_is_frozen_is_warned_of(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    build(
        EstimatorConfig.from_preset(
            "frozen", **{**SIZES, "model": encoder_directory(tmp_path, dropout=0.0)}
        )
    )
    build()
    assert not caplog.records
    build(EstimatorConfig.from_preset("frozen", **SIZES))
    assert ["random weights" in record.message for record in caplog.records] == [True]
