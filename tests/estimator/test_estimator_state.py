"""The difficulty estimator's determinism, its state, and its files."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from depo.config import EstimatorConfig
from depo.estimator import BertDifficultyEstimator
from depo.state.checkpoints import load_checkpoint, save_checkpoint
from depo.types.errors import ConfigError, StateError
from tests.estimator.estimator_helpers import (
    SMALL,
    assert_same_state,
    build,
    random_batches,
    texts,
    word_tokenizer,
)


def global_numpy_state() -> list[int]:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return [*state["state"]["key"].tolist(), state["state"]["pos"]]


def test_seed_decides_the_weights_and_no_global_generator_moves() -> None:
    before = global_numpy_state(), random.getstate()
    one = build(seed=1)
    torch.manual_seed(123)
    moved = torch.get_rng_state()
    other = build(seed=1)
    for estimator in (one, other):
        estimator.update(random_batches(2, 0))
        estimator.predict(texts(3))
    assert_same_state(one, other)
    assert torch.equal(torch.get_rng_state(), moved)
    assert (global_numpy_state(), random.getstate()) == before
    different = build(seed=2).state_dict()["model"]
    assert not torch.equal(
        different["trunk.0.weight"], build(seed=1).state_dict()["model"]["trunk.0.weight"]
    )


def test_dropout_masks_differ_between_updates() -> None:
    config = EstimatorConfig(
        **{**asdict(SMALL), "learning_rate": 1e-12, "trunk_dropout": 0.5, "weight_decay": 0.0}
    )
    estimator = build(config)
    with torch.no_grad():
        estimator._model.score_head.weight.normal_(
            std=1.0, generator=torch.Generator().manual_seed(0)
        )
    losses = [estimator.update(random_batches(1, 0))["estimator/loss"] for _ in range(3)]
    assert len(set(losses)) == 3


@settings(max_examples=5, deadline=None)
@given(split=st.integers(0, 3), seed=st.integers(0, 100))
def test_a_restored_estimator_continues_bit_for_bit(split: int, seed: int) -> None:
    straight = build(seed=seed)
    for step in range(split):
        straight.update(random_batches(2, step))
    straight.predict([" ".join(["w1"] * 40)])
    resumed = build(seed=seed + 1)
    resumed.update(random_batches(1, 50))
    resumed.load_state_dict(straight.state_dict())
    for step in range(split, 4):
        assert straight.update(random_batches(2, step)) == resumed.update(random_batches(2, step))
        assert straight.version == resumed.version == step + 1
        np.testing.assert_array_equal(straight.predict(texts(5)), resumed.predict(texts(5)))
    assert_same_state(straight, resumed)


def test_a_state_is_a_copy() -> None:
    estimator = build()
    estimator.update(random_batches(1, 0))
    state = estimator.state_dict()
    predictions = estimator.predict(texts(4))
    estimator.update(random_batches(3, 1))
    estimator.load_state_dict(state)
    np.testing.assert_array_equal(estimator.predict(texts(4)), predictions)


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    estimator, restored = build(), build(seed=1)
    estimator.update(random_batches(2, 0))
    path = save_checkpoint(tmp_path, 1, {"estimator": estimator.state_dict()}, {}, keep=1)
    restored.load_state_dict(load_checkpoint(path).state["estimator"])
    assert_same_state(estimator, restored)


def test_foreign_states_are_refused_and_change_nothing() -> None:
    estimator = build()
    estimator.update(random_batches(1, 0))
    state = estimator.state_dict()
    fewer = {name: tensor for name, tensor in state["model"].items() if name != "score_head.bias"}
    wider = build(EstimatorConfig(**{**asdict(SMALL), "hidden_size": 32})).state_dict()
    for foreign, message in [
        ({**state, "format": 7}, "format 7"),
        ({**state, "model": fewer}, "score_head.bias"),
        ({**state, "extra": 1}, "extra"),
        ({**state, "optimizer": {**state["optimizer"], "nobody": {}}}, "nobody"),
        (wider, "got shape"),
    ]:
        with pytest.raises(StateError, match=message):
            estimator.load_state_dict(foreign)
    torch.testing.assert_close(estimator.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_an_encoder_from_files(kind: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=25,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    )
    distilbert = DistilBertModel(
        DistilBertConfig(
            vocab_size=25, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32
        )
    )
    encoder = {"bert": bert, "distilbert": distilbert}[kind]
    encoder.save_pretrained(tmp_path)
    config = EstimatorConfig.from_preset(
        "depo_paper", model=str(tmp_path), trunk_sizes=(16, 8), max_length=32
    )
    estimator = build(config)
    loaded = estimator.state_dict()["model"]
    for name, tensor in encoder.state_dict().items():
        assert name.startswith("pooler.") or torch.equal(tensor, loaded[f"encoder.{name}"]), name
    metrics = estimator.update(random_batches(2, 0))
    assert np.isfinite(list(metrics.values())).all()
    resumed = build(config)
    resumed.load_state_dict(estimator.state_dict())
    assert estimator.update(random_batches(2, 1)) == resumed.update(random_batches(2, 1))
    with pytest.raises(ConfigError, match=r"estimator\.max_length: got 64, expected at most 32"):
        build(EstimatorConfig(model=str(tmp_path), max_length=64))


def test_a_missing_encoder_is_named() -> None:
    with pytest.raises(ConfigError, match=r"estimator\.model: got '/nowhere'"):
        build(EstimatorConfig(model="/nowhere"))


def test_an_exported_estimator_predicts_the_same(tmp_path: Path) -> None:
    estimator = build(seed=3)
    estimator.update(random_batches(3, 0))
    estimator.save_pretrained(tmp_path)
    loaded = BertDifficultyEstimator.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict(texts(10)), estimator.predict(texts(10)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "encoder",
        "estimator.json",
        "heads.safetensors",
    ]
