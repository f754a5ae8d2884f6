"""Compute the rewards of rollout groups as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.types.protocols import RewardFunction
from depo.types.records import Float32Array, Prompt, RolloutGroup


def judge(
    reward: RewardFunction,
    prompts: Sequence[Prompt],
    rollouts: Sequence[RolloutGroup],
    group_size: int,
) -> Float32Array:
    """Return the rewards of every response, float32 [B, group_size].

    NaN means unknown, or not generated because a probe has fewer rollouts.
    """
    responses = [response for group in rollouts for response in group.responses]
    repeated = [
        prompt for prompt, group in zip(prompts, rollouts, strict=True) for _ in group.responses
    ]
    rewards_N = reward(repeated, responses, np.concatenate([group.finished for group in rollouts]))
    sizes_B = np.array([len(group.responses) for group in rollouts])
    rewards_BG = np.full((len(rollouts), group_size), np.nan, np.float32)
    rewards_BG[np.arange(group_size) < sizes_B[:, None]] = rewards_N
    return rewards_BG
