"""A learner of the tiny policy, and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from depo.config import LossConfig, OptimizerConfig, PolicyConfig
from depo.training.learner.policy_learner import PolicyLearner
from depo.types.records import Float32Array, RolloutGroup, TokenFactors

MAX_NEW_TOKENS = 9
UNCLIPPED = 1e9


def make_learner(
    model: Qwen2ForCausalLM,
    *,
    loss: LossConfig | None = None,
    policy: PolicyConfig | None = None,
    **settings: Any,
) -> PolicyLearner:
    reference_model = settings.pop("reference_model", None)
    temperature = settings.pop("temperature", 1.0)
    learner_class = settings.pop("learner_class", PolicyLearner)
    limit = settings.pop("max_logprob_mismatch", math.inf)
    optimizer = OptimizerConfig(
        **{"learning_rate": 1e-2, "warmup_steps": 0, "grad_clip": UNCLIPPED} | settings
    )
    return learner_class(
        model,
        loss=loss or LossConfig(),
        optimizer=optimizer,
        policy=policy or PolicyConfig(),
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        pad_token_id=0,
        reference_model=reference_model,
        max_logprob_mismatch=limit,
    )


def random_advantages(n_groups: int, group_size: int, seed: int = 0) -> Float32Array:
    """Normal numbers; the second group and a few more responses have none."""
    rng = np.random.default_rng(seed)
    advantages_BG = rng.standard_normal((n_groups, group_size)).astype(np.float32)
    advantages_BG[1] = 0
    advantages_BG[rng.random((n_groups, group_size)) < 0.2] = 0
    return advantages_BG


def gradients_of_update(
    learner: PolicyLearner,
    groups: list[RolloutGroup],
    advantages_BG: Float32Array,
    token_factors: TokenFactors | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients as the optimizer gets to see them, and the metrics."""
    seen: dict[str, Tensor] = {}

    def copy_gradients(*_: Any) -> None:
        seen.update(
            {name: parameter.grad.clone() for name, parameter in learner.model.named_parameters()}
        )

    handle = learner.optimizer.register_step_pre_hook(copy_gradients)
    metrics = learner.update(groups, advantages_BG, step=0, token_factors=token_factors)
    handle.remove()
    return seen, metrics


def assert_same_gradients(
    got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6
) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 100 * tolerance, f"{name}: too small a gradient to compare"
        torch.testing.assert_close(
            got[name],
            gradient,
            rtol=1e-5,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )
