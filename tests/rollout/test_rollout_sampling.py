"""Sampled tokens follow the softmax, and the uniform numbers behind them their keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from depo.rollout.sampling import sample_tokens
from depo.sampler.keyed import derive_key, uniforms
from depo.types.records import Prompt
from tests.rollout.rollout_helpers import VOCAB_SIZE, build_engine, build_model, word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


def test_tokens_follow_the_softmax(tokenizer):
    model, temperature, count = build_model().eval(), 1.3, 20_000
    engine = build_engine(model, tokenizer, max_new_tokens=1, sequences_per_batch=count)
    group = engine.generate([Prompt(text="w5 w6 w7")], count, [7], temperature=temperature)[0]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(group.prompt_ids)[None]).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1).numpy() * count
    observed = np.bincount(np.concatenate(group.response_ids), minlength=VOCAB_SIZE)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    degrees = VOCAB_SIZE - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


@given(
    logits=st.lists(
        st.one_of(st.floats(-120, 120, width=32), st.just(-np.inf)), min_size=1, max_size=30
    ).filter(lambda row: max(row) > -np.inf),
    uniform=st.one_of(
        st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 2**-60])
    ),
)
def test_a_sampled_token_spans_its_uniform_number(logits, uniform):
    tokens, logprobs = sample_tokens(
        torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), 1.0
    )
    probabilities = np.exp(np.array(logits) - max(logits))
    below = probabilities[: tokens[0]].sum() / probabilities.sum()
    share = probabilities[tokens[0]] / probabilities.sum()
    assert share > 0
    assert below - 1e-6 <= uniform <= below + share + 1e-6
    assert float(logprobs[0]) == pytest.approx(np.log(share), abs=1e-4)


def test_the_tail_of_a_large_vocabulary_is_reached():
    tail = 200_000
    logits = torch.full(
        (1, tail + 1), -24.0
    )  # each tail token has probability 4e-11, all of them together 8e-6
    logits[0, 0] = 0.0
    tail_mass = tail * np.exp(-24.0) / (1 + tail * np.exp(-24.0))
    positions = np.linspace(0.01, 0.99, 16)
    tokens, _ = sample_tokens(
        logits.expand(16, -1), torch.from_numpy(1 - tail_mass * (1 - positions)), 1.0
    )
    np.testing.assert_allclose(tokens.numpy() / tail, positions, atol=1e-3)


def test_keyed_draws_do_not_depend_on_how_they_are_asked_for():
    keys = [derive_key(seed, "rollout", part) for seed in (0, 2**64 - 1) for part in (0, 1, 2)]
    assert len({*keys, derive_key(0, "evaluation", 0), derive_key(0, "rollout", 0, 0)}) == 8
    draws = uniforms(keys, 0, 50)
    assert draws.shape == (6, 50)
    assert draws.dtype == np.float64
    assert (draws >= 0).all()
    assert (draws < 1).all()
    assert (uniforms(keys[2:4], 10, 5) == draws[2:4, 10:15]).all()
