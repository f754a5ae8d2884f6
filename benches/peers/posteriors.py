"""Beta posteriors of N pass rates.

1024 of them change, and the 1024 whose draw is nearest to 1/2 are found: depo, NumPy, torch, numba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numba
import numpy as np
import torch
from choices import COUNT, SIZES
from density_tree import DensityTree
from rounds import OURS, Operation

from depo.sampler.candidates import DiscountedCounts, ThompsonSampler

DECAY = 0.97
GROUP_SIZE = 8
CHANGES = 64
TARGET = np.float32(0.5)


def posteriors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Alpha and beta after 0 to 4 groups for each of pass rates that are spread evenly."""
    random = np.random.default_rng(0)
    rollouts_N = GROUP_SIZE * random.integers(0, 5, size)
    successes_N = random.binomial(rollouts_N, random.random(size))
    return (1 + successes_N).astype(np.float32), (1 + rollouts_N - successes_N).astype(np.float32)


class Groups:
    """Groups that come in at a step: positions, successes, rollouts; new ones every time."""

    def __init__(self, size: int, count: int = COUNT) -> None:
        random = np.random.default_rng(1)
        self.positions = [random.integers(0, size, count) for _ in range(CHANGES)]
        self.successes = [
            random.integers(0, GROUP_SIZE + 1, count).astype(np.float32) for _ in range(CHANGES)
        ]
        self.rollouts = np.full(count, GROUP_SIZE, np.float32)
        self.step = 0

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        self.step += 1
        return (
            self.positions[self.step % CHANGES],
            self.successes[self.step % CHANGES],
            self.rollouts,
            self.step,
        )

    def shapes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions, successes, rollouts, _ = self()
        return positions, 1 + successes, 1 + rollouts - successes


def thompson_cases(size: int, changing: int) -> Mapping[str, Callable[[], object]]:
    """Cases that sample from all posteriors, after so many of them have changed."""
    alpha_N, beta_N = posteriors(size)
    sampler, tree, random = (
        ThompsonSampler(alpha_N, beta_N, seed=0),
        DensityTree(alpha_N, beta_N),
        np.random.default_rng(0),
    )
    ours, trees, gammas, betas, tensors = (Groups(size, changing) for _ in range(5))
    alphas, others = torch.from_numpy(alpha_N.copy()), torch.from_numpy(beta_N.copy())

    def by_depo() -> object:
        sampler.update(*ours.shapes())
        return sampler.sample(COUNT, ours.step)

    def by_tree() -> object:
        tree.update(*trees.shapes())
        return tree.sample(COUNT, random)

    def nearest(rates_N: np.ndarray) -> np.ndarray:
        distances_N = np.abs(rates_N - TARGET)
        best = np.argpartition(distances_N, COUNT)[:COUNT]
        return best[np.argsort(distances_N[best])]

    def by_gammas() -> np.ndarray:
        positions, alpha, beta = gammas.shapes()
        alpha_N[positions], beta_N[positions] = alpha, beta
        up_N, down_N = (
            random.standard_gamma(alpha_N, dtype=np.float32),
            random.standard_gamma(beta_N, dtype=np.float32),
        )
        return nearest(up_N / (up_N + down_N))

    def by_betas() -> np.ndarray:
        positions, alpha, beta = betas.shapes()
        alpha_N[positions], beta_N[positions] = alpha, beta
        return nearest(random.beta(alpha_N, beta_N))

    def by_torch() -> object:
        positions, alpha, beta = (torch.from_numpy(each) for each in tensors.shapes())
        alphas[positions], others[positions] = alpha, beta
        up_N, down_N = torch._standard_gamma(alphas), torch._standard_gamma(others)
        return torch.topk((up_N / (up_N + down_N) - 0.5).abs(), COUNT, largest=False)

    return {
        OURS: by_depo,
        "numpy density tree (approximate)": by_tree,
        "numpy standard_gamma float32 + argpartition": by_gammas,
        "numpy beta + argpartition": by_betas,
        "torch _standard_gamma + topk": by_torch,
    }


@numba.njit
def fade_columns(  # type: ignore[no-untyped-def]
    successes_N, failures_N, versions_N, positions, successes, rollouts, version, decay
) -> None:
    for group in range(len(positions)):
        position = positions[group]
        kept = decay ** np.float32(version - versions_N[position])
        successes_N[position] = successes_N[position] * kept + successes[group]
        failures_N[position] = failures_N[position] * kept + rollouts[group] - successes[group]
        versions_N[position] = version


@numba.njit
def fade_rows(rows_N4, positions, successes, rollouts, version, decay) -> None:  # type: ignore[no-untyped-def]
    for group in range(len(positions)):
        row = rows_N4[positions[group]]
        kept = decay ** (np.float32(version) - row[2])
        row[0] = row[0] * kept + successes[group]
        row[1] = row[1] * kept + rollouts[group] - successes[group]
        row[2] = version


def count_cases(size: int) -> Mapping[str, Callable[[], object]]:
    ours, decay = DiscountedCounts(size, decay=DECAY), np.float32(DECAY)
    ours.update(np.arange(size), np.ones(size), np.ones(size), 0)
    columns = [np.ones(size, np.float32), np.ones(size, np.float32), np.zeros(size, np.int32)]
    compiled_columns, compiled_rows_N4, rows_N4 = (
        [column.copy() for column in columns],
        np.ones((size, 4), np.float32),
        np.ones((size, 4), np.float32),
    )
    groups = [Groups(size) for _ in range(5)]

    def by_columns() -> None:
        positions, successes, rollouts, version = groups[1]()
        successes_N, failures_N, versions_N = columns
        kept = decay ** (version - versions_N[positions]).astype(np.float32)
        successes_N[positions] = successes_N[positions] * kept + successes
        failures_N[positions] = failures_N[positions] * kept + (rollouts - successes)
        versions_N[positions] = version

    def by_rows() -> None:
        positions, successes, rollouts, version = groups[2]()
        rows = rows_N4.take(positions, 0)
        rows[:, :2] *= (decay ** (np.float32(version) - rows[:, 2]))[:, None]
        rows[:, 0] += successes
        rows[:, 1] += rollouts - successes
        rows[:, 2] = version
        rows_N4[positions] = rows

    return {
        OURS: lambda: ours.update(*groups[0]()),
        "numpy columns": by_columns,
        "numpy rows": by_rows,
        "numba columns": lambda: fade_columns(*compiled_columns, *groups[3](), decay),
        "numba rows": lambda: fade_rows(compiled_rows_N4, *groups[4](), decay),
    }


def measure(rounds: int) -> list[Operation]:
    thompson = Operation(
        "Thompson sampling over all N: the 1024 whose draw is nearest to .5, in order",
        "`depo.sampler.candidates.ThompsonSampler`. Exact, as the draws for each are; the density "
        "tree in NumPy, the same idea, leaves out what the mass within the "
        "distance changes.",
        {
            "numpy standard_gamma float32 + argpartition": "1000x from 10M",
            "numpy density tree (approximate)": "7x from 1M",
        },
    )
    changing = Operation(
        "The same after 1024 posteriors have changed",
        "The bars are those of sampling alone, above.",
    )
    counts = Operation(
        "Discounted counts of 1024 prompts",
        "`depo.sampler.candidates.DiscountedCounts.update`, checked. NumPy loses groups of a "
        "prompt that is named twice.",
        dict.fromkeys(["numpy columns", "numpy rows", "numba columns", "numba rows"], "4x"),
    )
    for size, count in SIZES.items():
        thompson.time(size, thompson_cases(count, 0), rounds)
        changing.time(size, thompson_cases(count, COUNT), rounds)
        counts.time(size, count_cases(count), rounds)
    return [thompson, changing, counts]
