"""Group advantages with unknown rewards.

depo, NumPy, numba, TRL's expressions, verl's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numba
import numpy as np
import torch
from rounds import OURS, Operation
from trl.trainer.utils import nanstd
from verl.trainer.ppo import core_algos

from depo._core import group_advantages

SHAPES = ((128, 8), (1024, 16), (4096, 64))
EPSILON = np.float32(1e-6)
UNKNOWN_SHARE = 0.01


@numba.njit  # type: ignore[untyped-decorator]
def by_numba(rewards_BG, epsilon):  # type: ignore[no-untyped-def]
    """Sum in float32, which is faster than what depo does, and multiply by the reciprocal."""
    advantages_BG = np.zeros_like(rewards_BG)
    informative_B, means_B = (
        np.empty(len(rewards_BG), np.bool_),
        np.empty(len(rewards_BG), np.float32),
    )
    for group, rewards_G in enumerate(rewards_BG):
        known, total, lowest, highest = 0, np.float32(0), np.float32(np.inf), np.float32(-np.inf)
        for reward in rewards_G:
            if not np.isnan(reward):
                known += 1
                total += reward
                lowest, highest = min(lowest, reward), max(highest, reward)
        means_B[group] = mean = total / np.float32(known)
        informative_B[group] = highest - lowest > epsilon
        if informative_B[group]:
            squares = np.float32(0)
            for reward in rewards_G:
                if not np.isnan(reward):
                    squares += (reward - mean) * (reward - mean)
            factor = np.float32(1) / (np.sqrt(squares / np.float32(known - 1)) + epsilon)
            for rollout, reward in enumerate(rewards_G):
                if not np.isnan(reward):
                    advantages_BG[group, rollout] = (reward - mean) * factor
    return advantages_BG, informative_B, means_B


def by_numpy(rewards_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known_BG = ~np.isnan(rewards_BG)
    values_BG = np.where(known_BG, rewards_BG, np.float32(0))
    known_B = known_BG.sum(1, dtype=np.float32)
    means_B = values_BG.sum(1) / known_B
    deviations_BG = np.where(known_BG, values_BG - means_B[:, None], np.float32(0))
    variances_B = np.einsum("bg,bg->b", deviations_BG, deviations_BG) / (known_B - 1)
    informative_B = (
        np.fmax.reduce(rewards_BG, axis=1) - np.fmin.reduce(rewards_BG, axis=1) > EPSILON
    )
    deviations_BG *= (informative_B / (np.sqrt(variances_B) + EPSILON))[:, None]
    return deviations_BG, informative_B, means_B


def by_trl(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """GRPOTrainer._generate_and_score_completions, scale_rewards="group"."""
    mean_grouped_rewards = torch.nanmean(
        rewards.view(-1, num_generations), dim=1
    ).repeat_interleave(num_generations, dim=0)
    std_rewards = nanstd(rewards.view(-1, num_generations), dim=1).repeat_interleave(
        num_generations, dim=0
    )
    torch.isclose(std_rewards, torch.zeros_like(std_rewards))
    return torch.nan_to_num((rewards - mean_grouped_rewards) / (std_rewards + 1e-4))


def cases(groups: int, group_size: int, values: int) -> Mapping[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    rewards_BG = random.integers(0, values, (groups, group_size)).astype(np.float32) / (values - 1)
    token_rewards_NT, mask_NT = (
        torch.from_numpy(rewards_BG.reshape(-1, 1).copy()),
        torch.ones(groups * group_size, 1),
    )
    index_N = np.repeat(
        np.array([f"prompt-{group}" for group in range(groups)], object), group_size
    )
    rewards_BG[random.random((groups, group_size)) < UNKNOWN_SHARE] = np.nan
    rewards = torch.from_numpy(rewards_BG.reshape(-1).copy())
    return {
        OURS: lambda: group_advantages(rewards_BG),
        "numba": lambda: by_numba(rewards_BG, EPSILON),
        "numpy": lambda: by_numpy(rewards_BG),
        "TRL": lambda: by_trl(rewards, group_size),
        "verl, vectorized": lambda: core_algos.compute_grpo_vectorized_outcome_advantage(
            token_rewards_NT, mask_NT, index_N
        ),
        "verl, default": lambda: core_algos.compute_grpo_outcome_advantage(
            token_rewards_NT, mask_NT, index_N
        ),
    }


def measure(rounds: int) -> list[Operation]:
    note = (
        "Sizes are groups x rollouts; 1 % of the rewards are unknown, except for verl, which has "
        "no such thing. "
        "depo sums in float64, numba and numpy in float32. {}"
    )
    binary = Operation(
        "Group advantages",
        note.format("Rewards are 0 or 1."),
        {"numba": "1x", "TRL": "30x", "verl, default": "1000x"},
    )
    graded = Operation(
        "Group advantages of graded rewards",
        note.format("Rewards take 101 values, for which depo has to sum."),
        {"numba": "1x"},
    )
    for groups, group_size in SHAPES:
        binary.time(f"{groups} x {group_size}", cases(groups, group_size, 2), rounds)
        graded.time(f"{groups} x {group_size}", cases(groups, group_size, 101), rounds)
    return [binary, graded]
