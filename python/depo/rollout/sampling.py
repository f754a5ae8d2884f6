"""Sample one token per row: invert the cumulative distribution at a uniform number."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_tokens(
    logits_RV: Tensor, uniforms_R: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Sample one token per row from softmax(logits / temperature).

    Row r takes the first token whose cumulative probability exceeds `uniforms_R[r]` times the row's
    total. The sum is in float64. A float32 sum would not grow by probabilities below 2**-25 of it,
    so the tail of a large vocabulary would never be sampled. The factor total corrects
    probabilities that do not sum to exactly 1. Since u <= 1 - 2**-53, the rounded product stays
    below the total, so a token always exceeds it. The comparison is strict, so a token with
    probability 0 is never sampled.

    Args:
        logits_RV: Float [R, V], any float type.
        uniforms_R: float64 [R] in [0, 1).
        temperature: 0 takes the most likely token, the first one of equals.

    Returns:
        Tokens int64 [R] and their log-probabilities float32 [R] under the distribution they were
        sampled from (all 0 when greedy), computed in float32, or float64 for float64 logits. NaN
        among a row's logits makes its log-probability NaN.
    """
    if temperature == 0:
        return logits_RV.argmax(-1), logits_RV.new_zeros(logits_RV.shape[0], dtype=torch.float32)
    compute_type = torch.promote_types(logits_RV.dtype, torch.float32)
    logprobs_RV = torch.log_softmax(logits_RV.to(compute_type) / temperature, dim=-1)
    cumulative_RV = logprobs_RV.exp().cumsum(-1, dtype=torch.float64)
    thresholds_R1 = uniforms_R[:, None] * cumulative_RV[:, -1:]
    tokens_R1 = torch.searchsorted(cumulative_RV, thresholds_R1, right=True).clamp_(
        max=logits_RV.shape[-1] - 1
    )
    return tokens_R1[:, 0], logprobs_RV.gather(-1, tokens_R1)[:, 0].float()
