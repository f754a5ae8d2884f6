"""Slow, obvious restatements of what the Rust core computes: written from the formulas, sharing no code with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(bits: int) -> int:
    """Return SplitMix64's finaliser of a 64-bit integer."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    return bits ^ (bits >> 31)


def derive_key(seed: int, purpose: str, parts: Sequence[int]) -> int:
    """Return the key of a purpose: seed, XXH3 of the purpose and each part, folded by `mix`."""
    key = mix(mix((seed + GOLDEN) & MASK) ^ xxhash.xxh3_64_intdigest(purpose.encode()))
    for part in parts:
        key = mix(((key + GOLDEN) & MASK) ^ mix((part + GOLDEN) & MASK))
    return key


def uniform(key: int, counter: int) -> float:
    """Return draw number `counter` of a key: the top 53 bits of SplitMix64's output."""
    return (mix((key + (counter + 1) * GOLDEN) & MASK) >> 11) / 2**53


def group_advantages(rewards: Sequence[float], scale_by_std: bool, ddof: int, epsilon: float, tolerance: float) -> tuple[list[float], bool, float]:
    """Return advantages, informative and mean of one group of rewards (NaN: unknown)."""
    known = [reward for reward in rewards if not math.isnan(reward)]
    if not known:
        return [0.0] * len(rewards), False, math.nan
    mean = math.fsum(known) / len(known)
    if max(known) - min(known) <= tolerance:
        return [0.0] * len(rewards), False, mean
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - ddof))
    scale = deviation + epsilon if scale_by_std else 1.0
    return [0.0 if math.isnan(reward) else (reward - mean) / scale for reward in rewards], True, mean


def p_informative(alpha: float, beta: float, group_size: int) -> float:
    """Return the beta-binomial probability of 1 .. G - 1 successes, summed over all orders of outcomes."""
    total = 0.0
    for outcomes in itertools.product((False, True), repeat=group_size):
        if 0 < sum(outcomes) < group_size:
            total += math.exp(log_beta(alpha + sum(outcomes), beta + group_size - sum(outcomes)) - log_beta(alpha, beta))
    return total


def log_beta(alpha: float, beta: float) -> float:
    """Return the logarithm of the Beta function."""
    return math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)


@dataclass
class Label:
    """k of n rollouts of a prompt succeeded at a policy version; `prediction` is what was predicted of it before (NaN: nothing)."""

    prompt: int
    successes: int
    rollouts: int
    version: int
    prediction: float


@dataclass
class Belief:
    """Keeps every label and recomputes everything from all of them.

    Attributes:
        discount: Weight of a label after one policy version.
        configured: Concentration before it is learned.
        learn: Whether to learn it.
        use_history: Whether a prompt's own labels enter.
        labels: Labels in order of arrival.
    """

    discount: float
    configured: float
    learn: bool
    use_history: bool
    labels: list[Label] = field(default_factory=list)

    def base_rate(self, n_labels: int) -> float:
        """Return the share of successes among the first labels, newer ones counting more, starting from one success in two."""
        ages = [n_labels - 1 - position for position in range(n_labels)]
        kept = self.labels[:n_labels]
        successes = 0.999**n_labels + sum(0.999**age * label.successes for age, label in zip(ages, kept, strict=True))
        rollouts = 2 * 0.999**n_labels + sum(0.999**age * label.rollouts for age, label in zip(ages, kept, strict=True))
        return float(successes / rollouts)

    def prior_mean(self, prediction: float, n_labels: int) -> float:
        """Return the clamped prediction, or the base rate."""
        return min(max(self.base_rate(n_labels) if math.isnan(prediction) else prediction, 1e-3), 1 - 1e-3)

    def history(self, prompt: int, version: int, n_labels: int) -> tuple[float, float]:
        """Return discounted successes and failures of a prompt at `version`, or at its newest label if that is newer."""
        own = [label for label in self.labels[:n_labels] if label.prompt == prompt]
        if not self.use_history or not own:
            return 0.0, 0.0
        now = max(version, *(label.version for label in own), 0)
        weights = [self.discount ** (now - label.version) for label in own]
        successes = sum(weight * label.successes for weight, label in zip(weights, own, strict=True))
        return successes, sum(weight * label.rollouts for weight, label in zip(weights, own, strict=True)) - successes

    def grid(self) -> list[float]:
        """Return the configured concentration and twelve log-spaced ones."""
        return [self.configured, *np.geomspace(0.5, 64.0, 12).tolist()]

    def log_likelihoods(self) -> list[float]:
        """Return the discounted log-likelihood of all labels under each concentration of the grid."""
        totals = []
        for concentration in self.grid():
            total = 0.0
            for position, label in enumerate(self.labels):
                mean = self.prior_mean(label.prediction, position)
                successes, failures = self.history(label.prompt, label.version, position)
                alpha, beta = concentration * mean + successes, concentration * (1 - mean) + failures
                gain = log_beta(alpha + label.successes, beta + label.rollouts - label.successes) - log_beta(alpha, beta)
                total = 0.999 * total + gain
            totals.append(total)
        return totals

    def concentration(self) -> float:
        """Return the most likely concentration once there are 32 labels."""
        if not self.learn or len(self.labels) < 32:
            return self.configured
        return self.grid()[int(np.argmax(self.log_likelihoods()))]

    def posterior(self, prompt: int, prediction: float, version: int) -> tuple[float, float]:
        """Return the pseudo-counts believed at `version`."""
        concentration, mean = self.concentration(), self.prior_mean(prediction, len(self.labels))
        successes, failures = self.history(prompt, version, len(self.labels))
        return concentration * mean + successes, concentration * (1 - mean) + failures


def nearest_to_window(predictions: NDArray[np.float32], low: float, high: float) -> NDArray[np.float64]:
    """Return how far each prediction lies outside of the window."""
    outside = [max(np.float32(low) - value, value - np.float32(high), 0.0) for value in predictions]
    return np.array(outside, dtype=np.float64)
