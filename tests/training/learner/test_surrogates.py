"""GSPO, CISPO and token factors: token by token, by finite differences, and through the learner."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depo.config import LossConfig
from depo.training.learner import losses
from tests.training.learner import reference_losses
from tests.training.learner.learner_helpers import (
    MAX_NEW_TOKENS,
    assert_same_gradients,
    gradients_of_update,
    make_learner,
    random_advantages,
)
from tests.training.learner.reference_losses import policy_gradient, random_groups, tiny_policy

SURROGATES = ("clipped", "gspo", "cispo")


@dataclass
class Sequences:
    """Some sequences, one after the other, each token with an advantage of its own."""

    lengths: list[int]
    new_L: Tensor
    old_L: Tensor
    advantages_L: Tensor

    def token_losses(self, config: LossConfig, scale: float = 1.0) -> losses.TokenLoss:
        return losses.policy_loss(
            self.new_L, self.old_L, scale * self.advantages_L, torch.tensor(self.lengths), config
        )


@st.composite
def sequences(draw: st.DrawFn) -> Sequences:
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    new_L, old_L, advantages_L = (
        scale * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
        for scale in (0.4, 0.4, 1.0)
    )
    return Sequences(lengths, new_L, old_L, advantages_L)


@given(
    batch=sequences(), surrogate=st.sampled_from(SURROGATES), clip_low=st.sampled_from([0.1, 1.0])
)
def test_policy_loss_token_by_token(batch: Sequences, surrogate: Any, clip_low: float) -> None:
    config = LossConfig(surrogate=surrogate, clip_low=clip_low, clip_high=0.15)
    parts = zip(
        *(
            values_L.split(batch.lengths)
            for values_L in (batch.new_L, batch.old_L, batch.advantages_L)
        ),
        strict=True,
    )
    expected = [
        float(loss)
        for new, old, advantages in parts
        for loss in reference_losses.surrogate_losses(new, old, advantages.tolist(), config)
    ]
    got = batch.token_losses(config)
    torch.testing.assert_close(
        got.loss_L, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )
    outside_L = (got.ratio_L < 1 - clip_low) | (got.ratio_L > 1.15)
    assert (outside_L | ~got.clipped_L).all()
    assert surrogate != "cispo" or torch.equal(outside_L, got.clipped_L)


@given(
    batch=sequences(),
    surrogate=st.sampled_from(SURROGATES),
    factor=st.floats(0, 30),
    dual_clip=st.sampled_from(["off", 2.0]),
)
def test_a_factor_of_the_advantages_is_a_factor_of_the_loss(
    batch: Sequences, surrogate: Any, factor: float, dual_clip: Any
) -> None:
    """This is what makes weighted advantages the same as weighted groups."""
    config = LossConfig(surrogate=surrogate, dual_clip="off" if surrogate == "cispo" else dual_clip)
    torch.testing.assert_close(
        batch.token_losses(config, factor).loss_L,
        factor * batch.token_losses(config).loss_L,
        rtol=1e-12,
        atol=1e-12,
    )


def finite_differences(function: Any, at_L: Tensor, step: float = 1e-6) -> Tensor:
    moves = step * torch.eye(at_L.numel(), dtype=torch.float64)
    with torch.no_grad():
        return torch.stack(
            [(function(at_L + move) - function(at_L - move)) / (2 * step) for move in moves]
        )


def test_averaged_gspo_gradient_is_the_finite_difference_of_the_sequence_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths_N = torch.tensor([1, 5, 3, 8, 2])
    new_L, old_L = (
        0.3 * torch.randn(19, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    advantages_L = torch.randn(5, generator=generator, dtype=torch.float64).repeat_interleave(
        lengths_N
    )
    config = LossConfig(surrogate="gspo", clip_low=0.05, clip_high=0.05)

    def mean_loss(logprobs_L: Tensor) -> Tensor:
        return (
            losses.policy_loss(logprobs_L, old_L, advantages_L, lengths_N, config).loss_L
            / lengths_N.repeat_interleave(lengths_N)
        ).sum()

    (gradient_L,) = torch.autograd.grad(mean_loss(new_L.requires_grad_()), new_L)
    torch.testing.assert_close(gradient_L, finite_differences(mean_loss, new_L), rtol=0, atol=1e-9)
    assert {bool(part_T.any()) for part_T in gradient_L.split(lengths_N.tolist())} == {
        True,
        False,
    }, "sequences are clipped as a whole"
    assert all(
        bool(part_T.all()) == bool(part_T.any()) for part_T in gradient_L.split(lengths_N.tolist())
    )


def test_gspo_advantages_of_tokens_act_on_their_own_token_alone() -> None:
    new_L, old_L = (
        torch.tensor([-1.0, -2.0, -0.5], requires_grad=True),
        torch.tensor([-1.2, -1.9, -0.1]),
    )
    advantages_L = torch.tensor([0.0, -1.5, 0.0])
    loss_L = losses.policy_loss(
        new_L, old_L, advantages_L, torch.tensor([3]), LossConfig(surrogate="gspo")
    ).loss_L
    (gradient_L,) = torch.autograd.grad(loss_L.sum(), new_L)
    torch.testing.assert_close(
        gradient_L, -math.exp((0.2 - 0.1 - 0.4) / 3) * advantages_L, rtol=0, atol=1e-6
    )


@given(batch=sequences())
def test_cispo_gradient_is_the_finite_difference_with_its_weights_held_and_no_token_loses_it(
    batch: Sequences,
) -> None:
    weights_L = (batch.new_L - batch.old_L).exp().clamp(0.8, 1.28)
    expected_L = finite_differences(
        lambda logprobs_L: -(weights_L * batch.advantages_L * logprobs_L).sum(), batch.new_L
    )
    batch.new_L.requires_grad_()
    (gradient_L,) = torch.autograd.grad(
        batch.token_losses(LossConfig(surrogate="cispo")).loss_L.sum(), batch.new_L
    )
    torch.testing.assert_close(gradient_L, expected_L, rtol=0, atol=1e-8)
    assert gradient_L.all()


@pytest.mark.parametrize("tokens_per_microbatch", [1, 60])
@pytest.mark.parametrize("preset", ["gspo", "cispo"])
@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "constant"])
def test_gradients_of_the_other_surrogates(
    preset: str, aggregation: Any, tokens_per_microbatch: int
) -> None:
    model = tiny_policy(0)
    groups, advantages_BG = random_groups(model, 0, 4, 4, noise=0.3), random_advantages(4, 4)
    loss = LossConfig.from_preset(preset, aggregation=aggregation, clip_low=0.05, clip_high=0.05)
    expected_loss, expected = policy_gradient(model, groups, advantages_BG, loss, MAX_NEW_TOKENS)
    gradients, metrics = gradients_of_update(
        make_learner(model, loss=loss, tokens_per_microbatch=tokens_per_microbatch),
        groups,
        advantages_BG,
    )
    assert_same_gradients(gradients, expected)
    assert metrics["policy/loss"] == pytest.approx(expected_loss, abs=1e-6)
    assert 0.1 < metrics["policy/clip_share"] < 0.9


@pytest.mark.parametrize("surrogate", ["clipped", "cispo"])
def test_token_factors_scale_the_advantage_of_their_token(surrogate: Any) -> None:
    model, rng = tiny_policy(0), np.random.default_rng(0)
    groups, advantages_BG = random_groups(model, 0, 4, 4, noise=0.3), random_advantages(4, 4)
    factors = [
        [rng.choice([0.0, 0.5, 1.0], ids.size).astype(np.float32) for ids in group.response_ids]
        for group in groups
    ]
    loss = LossConfig(surrogate=surrogate)
    _, expected = policy_gradient(
        model, groups, advantages_BG, loss, MAX_NEW_TOKENS, token_factors=factors
    )
    gradients, _ = gradients_of_update(
        make_learner(model, loss=loss), groups, advantages_BG, token_factors=factors
    )
    assert_same_gradients(gradients, expected)


def test_factors_of_one_and_of_zero() -> None:
    model = tiny_policy(0)
    groups, advantages_BG = random_groups(model, 0, 4, 4, noise=0.3), random_advantages(4, 4)
    ones = [[np.ones(ids.size, np.float32) for ids in group.response_ids] for group in groups]
    plain, metrics = gradients_of_update(make_learner(tiny_policy(0)), groups, advantages_BG)
    same, same_metrics = gradients_of_update(
        make_learner(tiny_policy(0)), groups, advantages_BG, token_factors=ones
    )
    assert same_metrics == metrics and all(
        torch.equal(same[name], gradient) for name, gradient in plain.items()
    )
    left_out_BG = advantages_BG.copy()
    left_out_BG[0] = 0
    factors = [[0 * array for array in ones[0]], *ones[1:]]
    masked, masked_metrics = gradients_of_update(
        make_learner(tiny_policy(0)), groups, advantages_BG, token_factors=factors
    )
    without, without_metrics = gradients_of_update(
        make_learner(tiny_policy(0)), groups, left_out_BG
    )
    assert masked_metrics == without_metrics != metrics and all(
        torch.equal(masked[name], gradient) for name, gradient in without.items()
    )
