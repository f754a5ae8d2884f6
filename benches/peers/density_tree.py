"""Thompson sampling by densities in NumPy: what an expert would write who knows the trick."""

from __future__ import annotations

import numpy as np
import torch

WIDTH = 32
REACH = 1 / 64
SPARE = 1.6


class DensityTree:
    """A 32-ary sum tree over twice the density at 1/2.

    Points of a Poisson process over the distance are thinned to the density there.

    Approximate: the hazard is taken for the density, which is right up to the mass within the
    distance, and densities may rise by no more than `SPARE`.
    """

    def __init__(self, alpha_N: np.ndarray, beta_N: np.ndarray) -> None:
        self.alpha_N, self.beta_N = alpha_N.copy(), beta_N.copy()
        self.levels = [self.rates(alpha_N, beta_N)]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels[-1] = np.pad(below, (0, -len(below) % WIDTH))
            self.levels.append(self.levels[-1].reshape(-1, WIDTH).sum(1))

    def rates(self, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        a, b = torch.from_numpy(alpha), torch.from_numpy(beta)
        ln_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        rates: np.ndarray = (2 * SPARE * torch.exp((a + b - 2) * np.log(0.5) - ln_beta)).numpy()
        return rates

    def update(self, positions: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> None:
        self.alpha_N[positions], self.beta_N[positions] = alpha, beta
        self.levels[0][positions] = self.rates(alpha, beta)
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            positions = np.unique(positions // WIDTH)
            level[positions] = below.reshape(-1, WIDTH)[positions].sum(1)

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        items = np.zeros(count, np.int64)
        for level in self.levels[-2::-1]:
            sums = level.reshape(-1, WIDTH)[items].cumsum(1)
            targets = random.random((count, 1), np.float32) * sums[:, -1:]
            items = items * WIDTH + np.minimum((sums <= targets).sum(1), WIDTH - 1)
        return items

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        found, distance = np.empty(0, np.int64), 0.0
        while len(found) < count and distance < REACH:
            points = 2 * count
            distances = distance + random.standard_exponential(points).cumsum() / self.levels[-1][0]
            items, distance = self.draw(points, random), distances[-1]
            p, q = self.alpha_N[items] - 1, self.beta_N[items] - 1
            (up, down), sides = (
                (np.log1p(2 * distances), np.log1p(-2 * distances)),
                random.random((2, points)),
            )
            ratios = (np.exp(p * up + q * down) + np.exp(p * down + q * up)) / (2 * SPARE)
            hits = np.concatenate([found, items[sides[0] < ratios]])
            found = hits[np.sort(np.unique(hits, return_index=True)[1])]
        return found[:count]
