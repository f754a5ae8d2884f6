"""The best 1024 of N scores, and 1024 draws by weight without replacement.

depo, NumPy, torch, tianshou, cpprb.
"""

from __future__ import annotations

import random as standard_random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from cpprb import PrioritizedReplayBuffer
from rounds import OURS, Operation
from tianshou.data import SegmentTree

from depo.sampler.candidates import WeightedSampler, nearest, top

SIZES = {"17k": 17_000, "1M": 1_000_000, "10M": 10_000_000}
COUNT = 1024
MULTINOMIAL_LIMIT = 2**24
PRIME_RL_LIMIT = 20_000  # each draw looks at every prompt
POOLS = (
    (0.25, 0.2),
    (0.75, 1.0),
    (1.0, 0.2),
)  # the greatest reward, and the weight, of hard, normal and easy prompts


def best_cases(scores_N: np.ndarray) -> Mapping[str, Callable[[], object]]:
    tensor_N = torch.from_numpy(scores_N)

    def by_numpy() -> np.ndarray:
        best = np.argpartition(scores_N, -COUNT)[-COUNT:]
        return best[np.argsort(-scores_N[best])]

    return {
        OURS: lambda: top(scores_N, COUNT),
        "numpy argpartition": by_numpy,
        "torch.topk": lambda: torch.topk(tensor_N, COUNT),
    }


def nearest_cases(scores_N: np.ndarray) -> Mapping[str, Callable[[], object]]:
    tensor_N = torch.from_numpy(scores_N)

    def by_numpy() -> np.ndarray:
        distances_N = np.abs(scores_N - np.float32(0.5))
        best = np.argpartition(distances_N, COUNT)[:COUNT]
        return best[np.argsort(distances_N[best])]

    return {
        OURS: lambda: nearest(scores_N, 0.5, COUNT),
        "numpy argpartition": by_numpy,
        "torch.topk": lambda: torch.topk((tensor_N - 0.5).abs(), COUNT, largest=False),
    }


class Changes:
    """1024 positions whose weights change before each draw; new ones every time."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(1)
        self.positions = [random.integers(0, size, COUNT) for _ in range(64)]
        self.weights = [random.random(COUNT, np.float32) for _ in range(64)]
        self.number = 0

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        self.number += 1
        return self.positions[self.number % 64], self.weights[self.number % 64]


def prime_rl(rewards_N: np.ndarray) -> Callable[[], object]:
    """What prime-rl's DifficultyPoolSampler does for 1024 draws, condensed.

    Each weighs every prompt by the pool of its latest mean reward.
    """
    rewards, changes, random = (
        dict(enumerate(rewards_N.tolist())),
        Changes(len(rewards_N)),
        standard_random.Random(0),
    )

    def draw() -> int:
        weights = [
            next(weight for threshold, weight in POOLS if reward <= threshold)
            for reward in rewards.values()
        ]
        return random.choices(range(len(weights)), weights)[0]

    def step() -> list[int]:
        rewards.update(zip(*(column.tolist() for column in changes()), strict=True))
        return [draw() for _ in range(COUNT)]

    return step


def weighted_cases(weights_N: np.ndarray) -> Mapping[str, Callable[[], object]]:
    size = len(weights_N)
    ours, tree, random = (
        WeightedSampler(weights_N, seed=0),
        SegmentTree(size),
        np.random.default_rng(0),
    )
    tree[np.arange(size)] = weights_N
    buffer = PrioritizedReplayBuffer(size, {"item": {"dtype": np.int32}}, alpha=1.0, eps=0.0)
    for first in range(0, size, 1_000_000):
        buffer.add(
            item=np.arange(first, min(first + 1_000_000, size)),
            priorities=weights_N[first : first + 1_000_000],
        )
    ours_changes, tree_changes, buffer_changes, keys_changes = (Changes(size) for _ in range(4))
    keyed_N = weights_N.copy()

    def by_depo() -> np.ndarray:
        ours.update(*ours_changes())
        return ours.sample(COUNT, ours_changes.number)

    def by_tianshou() -> np.ndarray:
        positions, weights = tree_changes()
        tree[positions] = weights
        drawn = np.empty(0, np.int64)
        while len(drawn) < COUNT:
            hits = np.concatenate(
                [drawn, tree.get_prefix_sum_idx(random.random(COUNT - len(drawn)) * tree.reduce())]
            )
            drawn = hits[np.sort(np.unique(hits, return_index=True)[1])]
        return drawn

    def by_cpprb() -> object:
        buffer.update_priorities(*buffer_changes())
        return buffer.sample(COUNT)

    def by_numpy() -> np.ndarray:
        positions, weights = keys_changes()
        keyed_N[positions] = weights
        with np.errstate(divide="ignore"):
            keys_N = random.standard_exponential(size, np.float32) / keyed_N
        return np.argpartition(keys_N, COUNT)[:COUNT]

    cases = {
        OURS: by_depo,
        "tianshou SegmentTree": by_tianshou,
        "cpprb (with replacement)": by_cpprb,
        "numpy keys + argpartition": by_numpy,
    }
    if size <= PRIME_RL_LIMIT:
        cases["prime-rl's loop (with replacement)"] = prime_rl(weights_N)
    if size <= MULTINOMIAL_LIMIT:
        tensor_N = torch.from_numpy(weights_N)
        cases["torch.multinomial, no update"] = lambda: torch.multinomial(tensor_N, COUNT)
    return cases


def measure(rounds: int) -> list[Operation]:
    random = np.random.default_rng(0)
    best = Operation(
        "The 1024 greatest of N scores, in order",
        "`depo.sampler.candidates.top`.",
        {"numpy argpartition": "10x from 1M"},
    )
    near = Operation(
        "The 1024 of N scores nearest to .5, in order",
        "`depo.sampler.candidates.nearest`.",
        {"numpy argpartition": "10x from 1M"},
    )
    note = (
        "`depo.sampler.candidates.WeightedSampler`: 1024 weights change, then 1024 distinct "
        "positions are drawn. tianshou draws with replacement: "
        "duplicates are drawn again here, by NumPy. cpprb draws with replacement, which is less "
        "than is asked. torchrl 0.14.1 is left out: "
        "the extension behind its PrioritizedSampler does not load on this torch. "
        "prime-rl weighs every prompt anew for each draw, by the pool of its latest mean reward."
    )
    weighted = Operation(
        "Weighted draws without replacement, weights changing", note, {"tianshou SegmentTree": "2x"}
    )
    for size, count in SIZES.items():
        scores_N = random.random(count, np.float32)
        best.time(size, best_cases(scores_N), rounds)
        near.time(size, nearest_cases(scores_N), rounds)
        weighted.time(size, weighted_cases(scores_N), rounds)
    return [best, near, weighted]
