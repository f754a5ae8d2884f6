"""Slow, obvious counterparts of depo's losses and learner.

Also the tiny policy that their tests share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from depo.config import LossConfig
from depo.types.records import Float32Array, RolloutGroup, TokenFactors

VOCABULARY = 40


def tiny_policy(seed: int = 0, **settings: float) -> Qwen2ForCausalLM:
    """A random two-layer Qwen2 with weights large enough for a far from uniform distribution."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        **settings,
    )
    return Qwen2ForCausalLM(config)


def response_logprobs(
    model: PreTrainedModel, prompt_ids: Tensor, response_ids: Tensor, temperature: float
) -> Tensor:
    """Log-probabilities of one response, from one unpadded forward pass over all positions."""
    logits_TV = (
        model(input_ids=torch.cat([prompt_ids, response_ids])[None], use_cache=False).logits[0]
        / temperature
    )
    predictions_TV = logits_TV[prompt_ids.numel() - 1 : -1].log_softmax(-1)
    return predictions_TV[torch.arange(response_ids.numel()), response_ids]


def random_groups(
    model: PreTrainedModel,
    seed: int,
    n_groups: int,
    group_size: int,
    *,
    noise: float,
    temperature: float = 1.0,
) -> list[RolloutGroup]:
    """Random responses of 0 to 9 tokens whose rollout log-probs are the model's own plus normal
    noise.
    """
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(n_groups):
        prompt_ids = rng.integers(0, VOCABULARY, rng.integers(1, 7))
        responses = tuple(
            rng.integers(0, VOCABULARY, length) for length in rng.integers(0, 10, group_size)
        )
        with torch.no_grad():
            own = [
                response_logprobs(
                    model, torch.tensor(prompt_ids), torch.tensor(r), temperature
                ).numpy()
                for r in responses
            ]
        groups.append(
            RolloutGroup(
                prompt_ids=prompt_ids,
                response_ids=responses,
                rollout_logprobs=tuple(
                    (logprobs + noise * rng.standard_normal(logprobs.size)).astype(np.float32)
                    for logprobs in own
                ),
                finished=np.ones(group_size, np.bool_),
                responses=("",) * group_size,
                policy_version=0,
            )
        )
    return groups


def token_loss(ratio: Tensor, advantage: float, config: LossConfig) -> Tensor:
    """The clipped surrogate of one token, by cases."""
    unclipped = ratio.item()
    clipped = min(max(unclipped, 1 - config.clip_low), 1 + config.clip_high)
    loss = (
        -ratio * advantage
        if unclipped * advantage <= clipped * advantage
        else torch.tensor(-clipped * advantage, dtype=ratio.dtype)
    )
    bound = config.dual_clip
    if bound != "off" and advantage < 0 and loss.item() > -bound * advantage:
        return torch.tensor(-bound * advantage, dtype=ratio.dtype)
    return loss


def surrogate_losses(
    new: Tensor, old: Tensor, advantages: Sequence[float], config: LossConfig
) -> list[Tensor]:
    """The policy-gradient loss of each token of one sequence.

    GSPO's ratio is differentiated as a whole.
    """
    losses = []
    for t in range(new.numel()):
        ratio = (new - old).mean().exp() if config.surrogate == "gspo" else (new[t] - old[t]).exp()
        if config.surrogate == "cispo":
            weight = min(max(ratio.item(), 1 - config.clip_low), 1 + config.clip_high)
            losses.append(-weight * advantages[t] * new[t])
        else:
            losses.append(token_loss(ratio, advantages[t], config))
    return losses


def batch_loss(
    logprobs: Sequence[Tensor],
    rollout_logprobs: Sequence[Tensor],
    advantages: Sequence[float | Sequence[float]],
    config: LossConfig,
    max_new_tokens: int,
    reference_logprobs: Sequence[Tensor] | None = None,
) -> Tensor:
    """The loss of a whole batch, token by token.

    Each argument has one entry per sequence, an advantage may also be a list of one per token.
    """
    sequence_sums = []
    for n, (new, old, advantage) in enumerate(
        zip(logprobs, rollout_logprobs, advantages, strict=True)
    ):
        total = torch.zeros((), dtype=torch.float64)
        token_advantages = np.broadcast_to(advantage, new.shape).tolist()
        if (
            config.rollout_correction == "truncate"
        ):  # on-policy: the learner's old policy is its present one
            weights = [
                min(math.exp(new[t].item() - old[t].item()), config.rollout_correction_cap)
                for t in range(new.numel())
            ]
            old, token_advantages = (
                new.detach(),
                [w * a for w, a in zip(weights, token_advantages, strict=True)],
            )
        token_losses = surrogate_losses(new, old, token_advantages, config)
        for t in range(new.numel()):
            total = total + token_losses[t]
            if reference_logprobs is not None:
                log_ratio = reference_logprobs[n][t] - new[t]
                total = total + config.kl_weight * (log_ratio.exp() - log_ratio - 1)
        sequence_sums.append(total)
    lengths = [new.numel() for new in logprobs]
    if config.aggregation == "sequence_mean":
        return sum(
            total / max(1, length) for total, length in zip(sequence_sums, lengths, strict=True)
        ) / len(lengths)  # type: ignore[return-value]
    denominator = (
        sum(lengths) if config.aggregation == "token_mean" else len(lengths) * max_new_tokens
    )
    return sum(sequence_sums) / denominator  # type: ignore[return-value]


def policy_gradient(
    model: PreTrainedModel,
    groups: Sequence[RolloutGroup],
    advantages_BG: Float32Array,
    config: LossConfig,
    max_new_tokens: int,
    temperature: float = 1.0,
    reference_model: PreTrainedModel | None = None,
    token_factors: TokenFactors | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient by parameter name over all sequences, one forward pass per sequence."""
    advantages = advantages_BG.reshape(-1).tolist()
    if token_factors is not None:
        factors = [factors.tolist() for of_group in token_factors for factors in of_group]
        advantages = [
            [advantage * factor for factor in of_response]
            for advantage, of_response in zip(advantages, factors, strict=True)
        ]

    def all_logprobs(policy: PreTrainedModel) -> list[Tensor]:
        return [
            response_logprobs(policy, torch.tensor(g.prompt_ids), torch.tensor(r), temperature)
            for g in groups
            for r in g.response_ids
        ]

    old = [torch.tensor(logprobs) for group in groups for logprobs in group.rollout_logprobs]
    reference = (
        None
        if reference_model is None
        else [logprobs.detach() for logprobs in all_logprobs(reference_model)]
    )
    loss = batch_loss(all_logprobs(model), old, advantages, config, max_new_tokens, reference)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return float(loss.detach()), dict(
        zip(names, torch.autograd.grad(loss, parameters), strict=True)
    )


def advantages(rewards: Sequence[float], config: LossConfig, tolerance: float) -> list[float]:
    """Advantages of one group, NaN rewards unknown."""
    known = [reward for reward in rewards if not math.isnan(reward)]
    if not known or max(known) - min(known) <= tolerance:
        return [0.0] * len(rewards)
    mean = sum(known) / len(known)
    variance = sum((reward - mean) ** 2 for reward in known) / (len(known) - config.std_ddof)
    scale = math.sqrt(variance) + config.std_epsilon if config.scale_by_std else 1.0
    return [0.0 if math.isnan(reward) else (reward - mean) / scale for reward in rewards]


def daro_weights(
    batches: Sequence[Sequence[tuple[int, int, float]]], config: LossConfig
) -> list[float]:
    """Weights of the last of several batches of groups (level, tokens, summed loss).

    By dictionaries and loops.
    """
    means: dict[int, float] = {}
    weights: list[float] = []
    for batch in batches:
        level_weights, level_tokens = {}, {}
        for level in {level for level, _, _ in batch}:
            members = [group for group in batch if group[0] == level]
            level_tokens[level] = sum(tokens for _, tokens, _ in members)
            loss = abs(sum(loss for _, _, loss in members) / level_tokens[level])
            means[level] = (
                config.daro_decay * means[level] + (1 - config.daro_decay) * loss
                if level in means
                else loss
            )
            inverse = 1 / means[level] if means[level] else math.inf
            bounded = min(max(inverse, config.daro_min_weight), config.daro_max_weight)
            level_weights[level] = bounded * min(1.0, len(members) / config.daro_min_groups)
        raw = [level_weights[level] / level_tokens[level] for level, _, _ in batch]
        mean = sum(
            weight * tokens for weight, (_, tokens, _) in zip(raw, batch, strict=True)
        ) / sum(tokens for _, tokens, _ in batch)
        weights = [weight / mean for weight in raw]
    return weights
