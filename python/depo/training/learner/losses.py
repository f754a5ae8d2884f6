"""The GRPO family of policy-gradient losses as pure functions of tensors.

Everything works on loss tokens, packed without padding: L response tokens of N sequences, V the
vocabulary. The loss of a batch is sum over L of (token loss * weight of its sequence), where
`sequence_weights` takes the denominators of the whole batch as arguments. A sum does not care how
its terms are split or which zeros are left out, so micro-batches and dropped zero-advantage
sequences give the gradient of the full batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from depo.config import LossConfig

Aggregation = Literal["sequence_mean", "token_mean", "constant"]

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 (as in verl), so that their exponential stays finite in float32.
"""

CHUNK_ELEMENTS = 1 << 24
"""Logits that are held in float32 at a time (64 MiB)."""


class TokenLoss(NamedTuple):
    """The policy-gradient loss of L tokens.

    Attributes:
        loss_L: Loss of each token, differentiable.
        ratio_L: The importance ratio that is clipped, without gradient: the token's, or with GSPO
            its sequence's.
        clipped_L: bool, where the clip takes effect: the token's gradient is cut off, or with CISPO
            its weight is bounded.
    """

    loss_L: Tensor
    ratio_L: Tensor
    clipped_L: Tensor


def _chunks(logits_LV: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield row ranges with their scaled logits in at least float32, a bounded number at a time."""
    dtype = torch.promote_types(logits_LV.dtype, torch.float32)
    rows_per_chunk = max(1, CHUNK_ELEMENTS // max(1, logits_LV.shape[1]))
    for start in range(0, logits_LV.shape[0], rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        yield rows, logits_LV[rows].to(dtype) / temperature


class _TokenLogprobs(torch.autograd.Function):
    """log softmax at one token per row.

    Autograd alone would keep a float32 copy of all logits for the backward pass; this keeps one
    number per row.
    """

    @staticmethod
    def forward(ctx: Any, logits_LV: Tensor, tokens_L: Tensor, temperature: float) -> Tensor:
        dtype = torch.promote_types(logits_LV.dtype, torch.float32)
        logprobs_L, normalizers_L = (
            torch.empty(logits_LV.shape[0], dtype=dtype, device=logits_LV.device) for _ in range(2)
        )
        for rows, scaled_CV in _chunks(logits_LV, temperature):
            normalizers_L[rows] = scaled_CV.logsumexp(-1)
            logprobs_L[rows] = (
                scaled_CV.gather(-1, tokens_L[rows, None]).squeeze(-1) - normalizers_L[rows]
            )
        ctx.save_for_backward(logits_LV, tokens_L, normalizers_L)
        ctx.temperature = temperature
        return logprobs_L

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_L: Tensor) -> tuple[Tensor, None, None]:
        """D logprob / d logits = (one-hot of the token - softmax) / temperature."""
        logits_LV, tokens_L, normalizers_L = ctx.saved_tensors
        scale_L = (grad_L / ctx.temperature)[:, None]
        grad_LV = torch.empty_like(logits_LV)
        for rows, scaled_CV in _chunks(logits_LV, ctx.temperature):
            probabilities_CV = scaled_CV.sub_(normalizers_L[rows, None]).exp_()
            grad_LV[rows] = probabilities_CV.mul_(-scale_L[rows]).scatter_add_(
                -1, tokens_L[rows, None], scale_L[rows]
            )
        return grad_LV, None, None


def token_logprobs(logits_LV: Tensor, tokens_L: Tensor, temperature: float = 1.0) -> Tensor:
    """Return each token's log-probability under softmax(logits / temperature).

    Differentiable with respect to the logits.

    Args:
        logits_LV: Floating point [L, V]; half-precision logits are evaluated in float32.
        tokens_L: int64 [L], each in 0..V-1.
        temperature: Sampling temperature [> 0].

    Returns:
        float32 (float64 for float64 logits) [L], each at most 0.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not positive.
    """
    if logits_LV.dim() != 2 or tokens_L.shape != logits_LV.shape[:1]:
        raise ValueError(
            f"logits_LV, tokens_L: got shapes {tuple(logits_LV.shape)}, {tuple(tokens_L.shape)}, "
            f"expected [L, V], [L]"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, expected above 0")
    logprobs_L: Tensor = _TokenLogprobs.apply(logits_LV, tokens_L, temperature)  # type: ignore[no-untyped-call]
    return logprobs_L


@torch.no_grad()
def token_entropy(logits_LV: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy in nats of softmax(logits / temperature) at each position, float32.

    (float64 for float64 logits) [L], without gradient.
    """
    chunks = [
        torch.special.entr(scaled_CV.softmax(-1)).sum(-1)
        for _, scaled_CV in _chunks(logits_LV, temperature)
    ]
    return torch.cat(chunks) if chunks else logits_LV.new_zeros(0)


def importance_ratio(logprobs_L: Tensor, old_logprobs_L: Tensor) -> Tensor:
    """Return pi(token) / pi_old(token) [L] from log-probabilities.

    With the log-ratio clamped to +-MAX_LOG_RATIO.
    """
    return (logprobs_L - old_logprobs_L).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def truncated_weights(learner_logprobs_L: Tensor, rollout_logprobs_L: Tensor, cap: float) -> Tensor:
    """Return min(pi_learner / pi_rollout, cap) [L], without gradient.

    What a token of the engine weighs in the learner's gradient.

    Engine and learner compute the same policy in different arithmetic, so that responses are
    samples of a slightly different one (truncated importance
    sampling: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training",
    2025; token_truncate in TRL, rollout_is token in verl).

    Args:
        learner_logprobs_L: Log-probabilities of the learner, with the weights that generated.
        rollout_logprobs_L: Log-probabilities that the engine sampled with.
        cap: Largest weight [>= 1].
    """
    return importance_ratio(learner_logprobs_L.detach(), rollout_logprobs_L).clamp(max=cap)


def sequence_ratio(logprobs_L: Tensor, old_logprobs_L: Tensor, lengths_N: Tensor) -> Tensor:
    """Return GSPO's importance ratio exp(mean of the log-ratios) of each token's sequence, [L].

    (arXiv 2507.18071, section 4.3: GSPO-token).

    Its gradient with respect to a token's log-prob is the ratio itself, not the ratio / length, and
    reaches no other token. Averaged over a sequence whose tokens share one advantage, that is the
    gradient of the sequence's ratio; with an advantage per token, each acts on its own token alone.

    Args:
        logprobs_L: Log-probabilities under the policy, sequence after sequence.
        old_logprobs_L: Log-probabilities under the policy that sampled them.
        lengths_N: int64 [N], tokens of each sequence; their sum is L.
    """
    mean_log_ratio_N = torch.segment_reduce(
        (logprobs_L - old_logprobs_L).detach(), "mean", lengths=lengths_N
    )
    log_ratio_L = mean_log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).repeat_interleave(lengths_N)
    return (log_ratio_L + (logprobs_L - logprobs_L.detach())).exp()


def clipped_surrogate(
    ratio_L: Tensor,
    advantages_L: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Return PPO's token loss -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

    (arXiv 1707.06347, eq. 7; two bounds: arXiv 2503.14476, eq. 10).

    Args:
        ratio_L: Importance ratios [L].
        advantages_L: Advantage of each token's sequence [L].
        clip_low: Lower clip, 0..1.
        clip_high: Upper clip [>= 0].
        dual_clip: Where the advantage is negative, the loss is at most dual_clip * |A| (arXiv
            1912.09729, eq. 5) [> 1]; 0: off.
    """
    clipped_ratio_L = ratio_L.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_L = torch.maximum(-advantages_L * ratio_L, -advantages_L * clipped_ratio_L)
    if dual_clip is not None:
        loss_L = torch.where(
            advantages_L < 0, torch.minimum(loss_L, -advantages_L * dual_clip), loss_L
        )
    return loss_L


def clip_active(
    ratio_L: Tensor, advantages_L: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Return where the clip takes effect, that is, where the token's gradient is cut off.

    Bool [L].
    """
    return ((advantages_L < 0) & (ratio_L < 1.0 - clip_low)) | (
        (advantages_L > 0) & (ratio_L > 1.0 + clip_high)
    )


def cispo_surrogate(
    ratio_L: Tensor, logprobs_L: Tensor, advantages_L: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Return CISPO's token loss -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) A log pi.

    (arXiv 2506.13585, eq. 4-5), sg: no gradient.

    Both bounds are relative to 1, as in the paper and in verl. TRL has no lower bound, and its
    `epsilon_high` is the upper one itself: clip_low = 1, clip_high = epsilon_high - 1 here.

    Args:
        ratio_L: Importance ratios [L].
        logprobs_L: Log-probabilities under the policy [L].
        advantages_L: Advantage of each token [L].
        clip_low: 0..1; 1: no lower bound.
        clip_high: [>= 0].
    """
    return -ratio_L.detach().clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_L * logprobs_L


def policy_loss(
    logprobs_L: Tensor,
    old_logprobs_L: Tensor,
    advantages_L: Tensor,
    lengths_N: Tensor,
    config: LossConfig,
) -> TokenLoss:
    """Return the token losses of N sequences as `config.surrogate` says.

    Args:
        logprobs_L: Log-probabilities under the policy, sequence after sequence.
        old_logprobs_L: Log-probabilities under the policy that sampled them.
        advantages_L: Advantage of each token.
        lengths_N: int64 [N], tokens of each sequence; their sum is L.
        config: Uses `surrogate`, `clip_low`, `clip_high` and `dual_clip`.
    """
    clip_low, clip_high = config.clip_low, config.clip_high
    by_sequence = config.surrogate == "gspo"
    ratio_L = (
        sequence_ratio(logprobs_L, old_logprobs_L, lengths_N)
        if by_sequence
        else importance_ratio(logprobs_L, old_logprobs_L)
    )
    if config.surrogate == "cispo":
        loss_L = cispo_surrogate(
            ratio_L, logprobs_L, advantages_L, clip_low=clip_low, clip_high=clip_high
        )
        clipped_L = (ratio_L < 1.0 - clip_low) | (ratio_L > 1.0 + clip_high)
    else:
        loss_L = clipped_surrogate(
            ratio_L,
            advantages_L,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=None if config.dual_clip == "off" else config.dual_clip,
        )
        clipped_L = clip_active(ratio_L, advantages_L, clip_low=clip_low, clip_high=clip_high)
    return TokenLoss(loss_L, ratio_L.detach(), clipped_L)


def k3_kl(logprobs_L: Tensor, reference_logprobs_L: Tensor) -> Tensor:
    """Return the k3 estimate of KL(pi || pi_ref) per token, [L], each >= 0.

    r - ln r - 1 with r = pi_ref / pi, on tokens sampled from pi.

    Low variance and never negative (Schulman, "Approximating KL divergence", 2020; GRPO, arXiv
    2402.03300, eq. 4). ln r is clamped to +-MAX_LOG_RATIO.
    """
    log_ratio_L = (reference_logprobs_L - logprobs_L).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_ratio_L) - log_ratio_L


def sequence_weights(
    lengths_N: Tensor,
    aggregation: Aggregation,
    *,
    n_sequences: int,
    n_tokens: int,
    max_new_tokens: int,
) -> Tensor:
    """Return the factor of each sequence's token losses in the loss of the batch, float32 [N].

    0 for empty sequences.

    sequence_mean: 1 / (n_sequences * length), GRPO (arXiv 2402.03300); token_mean: 1 / n_tokens,
    DAPO (arXiv 2503.14476);
    constant: 1 / (n_sequences * max_new_tokens), Dr. GRPO (arXiv 2503.20783).

    Args:
        lengths_N: int64 [N], loss tokens of these sequences, which may be a part of the batch.
        aggregation: How token losses are averaged.
        n_sequences: Sequences of the whole batch, those left out included [>= N].
        n_tokens: Loss tokens of the whole batch, those left out included [>= sum of lengths].
        max_new_tokens: Token budget of a response [>= 1].

    Raises:
        ValueError: A denominator is smaller than what it is to count, or the aggregation is
            unknown.
    """
    if n_sequences < lengths_N.numel():
        raise ValueError(
            f"n_sequences: got {n_sequences}, expected at least {lengths_N.numel()}, the length "
            f"of lengths_N"
        )
    if n_tokens < int(lengths_N.sum()):
        raise ValueError(
            f"n_tokens: got {n_tokens}, expected at least {int(lengths_N.sum())}, the sum of "
            f"lengths_N"
        )
    if aggregation == "sequence_mean":
        denominators_N = n_sequences * lengths_N
    elif aggregation == "token_mean":
        denominators_N = torch.full_like(lengths_N, n_tokens)
    elif aggregation == "constant":
        denominators_N = torch.full_like(lengths_N, n_sequences * max_new_tokens)
    else:
        raise ValueError(
            f"aggregation: got {aggregation!r}, expected sequence_mean, token_mean or constant"
        )
    return torch.where(lengths_N > 0, 1.0 / denominators_N.clamp(min=1), 0.0)
