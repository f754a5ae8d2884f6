"""Loss functions against slow references, finite differences and laws."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depo.config import LossConfig
from depo.training.learner import losses
from tests.training.learner import reference_losses

AGGREGATIONS = ("sequence_mean", "token_mean", "constant")


def random_logits(
    n_tokens: int, vocabulary: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n_tokens * 1000 + vocabulary)
    logits_LV = 3 * torch.randn(n_tokens, vocabulary, generator=generator, dtype=torch.float64)
    return logits_LV.to(dtype).requires_grad_(), torch.randint(
        vocabulary, (n_tokens,), generator=generator
    )


@pytest.mark.parametrize("chunk_elements", [1, 30, 1 << 24])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_is_log_softmax_at_the_token(
    monkeypatch: pytest.MonkeyPatch, chunk_elements: int, temperature: float
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", chunk_elements)
    logits_LV, tokens_L = random_logits(7, 11)
    upstream_L = torch.linspace(-1, 2, 7, dtype=torch.float64)
    expected_L = (logits_LV / temperature).log_softmax(-1)[torch.arange(7), tokens_L]
    (expected_grad_LV,) = torch.autograd.grad(expected_L, logits_LV, upstream_L)
    got_L = losses.token_logprobs(logits_LV, tokens_L, temperature)
    (got_grad_LV,) = torch.autograd.grad(got_L, logits_LV, upstream_L)
    torch.testing.assert_close(got_L, expected_L, rtol=0, atol=1e-13)
    torch.testing.assert_close(got_grad_LV, expected_grad_LV, rtol=0, atol=1e-13)


def test_token_logprobs_gradient_is_the_finite_difference() -> None:
    logits_LV, tokens_L = random_logits(4, 6)
    assert torch.autograd.gradcheck(
        lambda logits: losses.token_logprobs(logits, tokens_L, 1.3), (logits_LV,)
    )


def test_token_logprobs_of_half_precision_logits_is_evaluated_in_float32() -> None:
    logits_LV, tokens_L = random_logits(64, 500, torch.bfloat16)
    got_L = losses.token_logprobs(logits_LV, tokens_L)
    expected_L = logits_LV.detach().double().log_softmax(-1)[torch.arange(64), tokens_L]
    assert got_L.dtype == torch.float32
    torch.testing.assert_close(got_L.double(), expected_L, rtol=0, atol=2e-6)
    got_L.sum().backward()
    assert logits_LV.grad is not None and logits_LV.grad.dtype == torch.bfloat16


def test_token_logprobs_keeps_one_number_per_token_besides_the_logits() -> None:
    """Autograd's own log softmax keeps a copy as large as the logits."""
    logits_LV, tokens_L = random_logits(16, 500, torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        losses.token_logprobs(logits_LV, tokens_L)
    assert (
        sum(tensor.numel() for tensor in kept if tensor.data_ptr() != logits_LV.data_ptr())
        == 2 * 16
    )


def test_token_entropy_is_minus_sum_p_log_p_also_for_impossible_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 20)
    logits_LV = random_logits(7, 11)[0].detach()
    logits_LV[:, 3] = -math.inf
    expected = [
        -sum(p * math.log(p) for p in row if p > 0)
        for row in (logits_LV / 0.8).softmax(-1).tolist()
    ]
    torch.testing.assert_close(
        losses.token_entropy(logits_LV, 0.8),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-13,
    )
    assert losses.token_entropy(logits_LV[:0]).shape == (0,)


@given(
    ratio=st.floats(0.01, 20),
    advantage=st.floats(-3, 3),
    clip_low=st.floats(0, 0.9),
    clip_high=st.floats(0, 2),
    dual_clip=st.sampled_from(["off", 1.5, 3.0]),
)
def test_clipped_surrogate_by_cases(
    ratio: float, advantage: float, clip_low: float, clip_high: float, dual_clip: Any
) -> None:
    config = LossConfig(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    ratio_L = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    loss_L = losses.clipped_surrogate(
        ratio_L,
        torch.tensor([advantage], dtype=torch.float64),
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=None if dual_clip == "off" else dual_clip,
    )
    assert loss_L.item() == pytest.approx(
        reference_losses.token_loss(ratio_L[0], advantage, config).item(), abs=1e-12
    )
    if dual_clip != "off":
        assert advantage >= 0 or loss_L.item() <= -dual_clip * advantage + 1e-12


def test_surrogate_gradient_is_the_finite_difference_and_vanishes_where_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs_L, old_logprobs_L, advantages_L = (
        torch.randn(200, generator=generator, dtype=torch.float64) * scale
        for scale in (0.3, 0.3, 1.0)
    )
    logprobs_L.requires_grad_()

    def surrogate(new_L: Tensor) -> Tensor:
        ratio_L = losses.importance_ratio(new_L, old_logprobs_L)
        return losses.clipped_surrogate(ratio_L, advantages_L, clip_low=0.2, clip_high=0.28)

    assert torch.autograd.gradcheck(surrogate, (logprobs_L,))
    (gradient_L,) = torch.autograd.grad(surrogate(logprobs_L).sum(), logprobs_L)
    active_L = losses.clip_active(
        losses.importance_ratio(logprobs_L, old_logprobs_L),
        advantages_L,
        clip_low=0.2,
        clip_high=0.28,
    )
    assert 20 < int(active_L.sum()) < 180
    assert torch.equal(gradient_L == 0, active_L)


def test_loss_and_gradient_stay_finite_for_absurd_log_ratios() -> None:
    logprobs_L = torch.tensor([-1e4, -1e-3, -1e4, -1e-3], requires_grad=True)
    old_L = torch.tensor([-1e-3, -1e4, -1e-3, -1e4])
    advantages_L = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss_L = losses.clipped_surrogate(
        losses.importance_ratio(logprobs_L, old_L), advantages_L, clip_low=0.2, clip_high=0.2
    )
    (loss_L + losses.k3_kl(logprobs_L, old_L)).sum().backward()
    assert (
        loss_L.isfinite().all() and logprobs_L.grad is not None and logprobs_L.grad.isfinite().all()
    )


def test_k3_is_an_unbiased_estimate_of_the_kl_and_never_negative() -> None:
    policy_V, reference_V = (
        random_logits(1, 30 + seed)[0].detach()[0, :30].log_softmax(-1) for seed in (0, 1)
    )
    estimate_V = losses.k3_kl(policy_V, reference_V)
    assert (estimate_V >= 0).all() and not losses.k3_kl(policy_V, policy_V).any()
    expectation = (policy_V.exp() * estimate_V).sum()
    torch.testing.assert_close(
        expectation, (policy_V.exp() * (policy_V - reference_V)).sum(), rtol=0, atol=1e-12
    )


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any),
    aggregation=st.sampled_from(AGGREGATIONS),
    cut=st.integers(0, 9),
    seed=st.integers(0, 2**31),
)
def test_weighted_sum_is_the_aggregated_loss_however_the_batch_is_cut(
    lengths: list[int], aggregation: str, cut: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, old = (
        [0.4 * torch.randn(n, generator=generator, dtype=torch.float64) for n in lengths]
        for _ in range(2)
    )
    advantages_N = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    config = LossConfig(aggregation=aggregation, clip_high=0.28)
    expected = reference_losses.batch_loss(
        new, old, advantages_N.tolist(), config, max_new_tokens=12
    )
    total = 0.0
    for part in (slice(0, cut), slice(cut, None)):
        lengths_N = torch.tensor(lengths[part], dtype=torch.int64)
        weights_N = losses.sequence_weights(
            lengths_N,
            aggregation,
            n_sequences=len(lengths),
            n_tokens=sum(lengths),
            max_new_tokens=12,
        )
        assert not weights_N[lengths_N == 0].any()
        ratio_L = losses.importance_ratio(
            torch.cat([*new[part], torch.zeros(0)]), torch.cat([*old[part], torch.zeros(0)])
        )
        loss_L = losses.clipped_surrogate(
            ratio_L, advantages_N[part].repeat_interleave(lengths_N), clip_low=0.2, clip_high=0.28
        )
        total += float((loss_L * weights_N.repeat_interleave(lengths_N)).sum())
    assert total == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("n_sequences", {"n_sequences": 1}),
        ("n_tokens", {"n_tokens": 4}),
        ("aggregation", {"aggregation": "mean"}),
    ],
)
def test_sequence_weights_names_the_bad_argument(
    argument: str, settings: dict[str, object]
) -> None:
    arguments = {
        "aggregation": "token_mean",
        "n_sequences": 2,
        "n_tokens": 5,
        "max_new_tokens": 4,
    } | settings
    with pytest.raises(ValueError, match=rf"^{argument}: got .*expected"):
        losses.sequence_weights(torch.tensor([2, 3]), **arguments)


def test_token_logprobs_names_the_bad_argument() -> None:
    logits_LV, tokens_L = random_logits(4, 6)
    with pytest.raises(
        ValueError, match=r"^logits_LV, tokens_L: got shapes \(4, 6\), \(3,\), expected"
    ):
        losses.token_logprobs(logits_LV, tokens_L[:3])
    with pytest.raises(ValueError, match=r"^temperature: got 0, expected above 0"):
        losses.token_logprobs(logits_LV, tokens_L, 0)
