"""The estimator's losses and one optimizer step on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from depo.config import EstimatorConfig
from depo.estimator.model import DifficultyModel
from depo.types.records import TargetBatch

LOGPROB_CLAMP = 1e-4
"""Distillation targets are kept within [LOGPROB_CLAMP, 1 - LOGPROB_CLAMP] (DEPO's release)."""

ROUNDING = 1e-4
"""How far beyond [0, 1] rounding may carry a target: the mean log-probability of certain tokens can
come out slightly above 0.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The numbers of a `TargetBatch` on the model's device, each float32 [M]."""

    rewards: Tensor
    logprobs: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """The loss and its parts before weighting, each a scalar tensor."""

    loss: Tensor
    score: Tensor
    distill: Tensor
    ranking: Tensor


def check_batch(batch: TargetBatch) -> None:
    """Check lengths and ranges.

    Raises:
        ValueError: A column is not as long as `texts`, a target lies outside [0, 1], or a weight is
            not positive.
    """
    for name in ("reward_targets", "logprob_targets", "counts", "weights"):
        shape = getattr(batch, name).shape
        if shape != (len(batch.texts),):
            raise ValueError(
                f"{name}: got shape {shape}, expected ({len(batch.texts)},), one per text"
            )
    for name in ("reward_targets", "logprob_targets"):
        values = getattr(batch, name)
        if ((values < -ROUNDING) | (values > 1 + ROUNDING)).any():
            raise ValueError(
                f"{name}: got values from {np.nanmin(values)} to {np.nanmax(values)}, expected "
                f"them within [0, 1]"
            )
    if not (batch.weights > 0).all():
        raise ValueError(f"weights: got {batch.weights.min()}, expected them above 0")


def load_targets(batch: TargetBatch, config: EstimatorConfig, device: torch.device) -> Targets:
    """Copy a batch's numbers to `device`, weights set to 1 unless `importance_weighted`."""
    weights = (
        torch.as_tensor(batch.weights)
        if config.importance_weighted
        else torch.ones(len(batch.texts))
    )
    rewards, logprobs = (
        torch.as_tensor(batch.reward_targets),
        torch.as_tensor(batch.logprob_targets),
    )
    return Targets(
        rewards=rewards.to(device), logprobs=logprobs.to(device), weights=weights.to(device)
    )


def ranking_loss(scores_M: Tensor, targets_M: Tensor, gap: float, margin: float) -> Tensor:
    """Return the pairwise ranking loss of scores against targets.

    The mean of relu(margin - (score_i - score_j)) over pairs with target_i > target_j + gap; 0
    without such a pair.

    Args:
        scores_M: float32 [M] logits.
        targets_M: float32 [M] observed pass rates of the same prompts.
        gap: Least difference of targets that is worth ranking.
        margin: Distance of the logits from which on a pair costs nothing.

    Source: DEPO (arXiv 2602.06375), ranking loss.
    """
    ordered_MM = targets_M[:, None] > targets_M[None, :] + gap
    shortfall_MM = torch.relu(margin - (scores_M[:, None] - scores_M[None, :]))
    return (shortfall_MM * ordered_MM).sum() / ordered_MM.sum().clamp(min=1)


def difficulty_loss(
    scores_M: Tensor, distills_M: Tensor, targets: Targets, config: EstimatorConfig
) -> LossTerms:
    """Return the estimator's loss and its terms.

    BCE(score, pass rate) + distill_weight * BCE(distill, exp(mean log-prob)) + ranking_weight *
    ranking loss.

    Both cross entropies are weighted means; the second covers the known log-probs only and is 0 if
    there is none.
    Source: DEPO (arXiv 2602.06375); the weights are this project's.
    """
    score = _weighted_mean(
        binary_cross_entropy_with_logits(scores_M, targets.rewards, reduction="none"),
        targets.weights,
    )
    known_M = ~targets.logprobs.isnan()
    logprobs_M = targets.logprobs.nan_to_num(0.5).clamp(LOGPROB_CLAMP, 1 - LOGPROB_CLAMP)
    distill = _weighted_mean(
        binary_cross_entropy_with_logits(distills_M, logprobs_M, reduction="none"),
        targets.weights * known_M,
    )
    ranking = ranking_loss(scores_M, targets.rewards, config.ranking_gap, config.ranking_margin)
    loss = score + config.distill_weight * distill + config.ranking_weight * ranking
    return LossTerms(loss=loss, score=score, distill=distill, ranking=ranking)


def build_optimizer(model: DifficultyModel, config: EstimatorConfig) -> torch.optim.AdamW:
    """Return AdamW over encoder (scaled learning rate) and the rest.

    A scale of 0 freezes the encoder.
    """
    model.encoder.requires_grad_(config.encoder_lr_scale > 0)
    rest = [
        parameter for name, parameter in model.named_parameters() if not name.startswith("encoder.")
    ]
    groups = [
        {
            "params": list(model.encoder.parameters()),
            "lr": config.learning_rate * config.encoder_lr_scale,
        },
        {"params": rest, "lr": config.learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def optimizer_step(
    model: DifficultyModel, optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float
) -> float:
    """Take one step down `loss` with the gradient clipped to `max_norm`.

    Returns:
        The gradient norm before clipping. If it or the loss is not finite, nothing has been
        changed.
    """
    optimizer.zero_grad(set_to_none=True)
    if not torch.isfinite(loss):
        return float("nan")
    torch.autograd.backward(loss)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    if norm < float("inf"):
        optimizer.step()
    return norm


def _weighted_mean(values_M: Tensor, weights_M: Tensor) -> Tensor:
    return (values_M * weights_M).sum() / weights_M.sum().clamp(
        min=torch.finfo(weights_M.dtype).tiny
    )
