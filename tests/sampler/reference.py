"""Slow, obvious restatements of what the Rust core computes.

Written from the formulas, sharing no code with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

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


def group_advantages(
    rewards: Sequence[float], scale_by_std: bool, ddof: int, epsilon: float, tolerance: float
) -> tuple[list[float], bool, float]:
    """Return advantages, informative and mean of one group of rewards (NaN: unknown)."""
    known = [reward for reward in rewards if not math.isnan(reward)]
    if not known:
        return [0.0] * len(rewards), False, math.nan
    mean = math.fsum(known) / len(known)
    if max(known) - min(known) <= tolerance:
        return [0.0] * len(rewards), False, mean
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (len(known) - ddof))
    scale = deviation + epsilon if scale_by_std else 1.0
    return (
        [0.0 if math.isnan(reward) else (reward - mean) / scale for reward in rewards],
        True,
        mean,
    )


def p_outcomes(
    alpha: float, beta: float, n_rollouts: int, wanted: Callable[[tuple[bool, ...]], bool]
) -> float:
    """Return the beta-binomial probability of the wanted ones among all orders of outcomes."""
    total = 0.0
    for outcomes in filter(wanted, itertools.product((False, True), repeat=n_rollouts)):
        total += math.exp(
            log_beta(alpha + sum(outcomes), beta + n_rollouts - sum(outcomes))
            - log_beta(alpha, beta)
        )
    return total


@cache
def p_informative(alpha: float, beta: float, group_size: int) -> float:
    """Return the probability that a group holds a success and a failure."""
    return p_outcomes(alpha, beta, group_size, lambda outcomes: 0 < sum(outcomes) < group_size)


@cache
def p_two_informative(alpha: float, beta: float, group_size: int) -> float:
    """Return the probability that two groups at the same pass rate do.

    The mean square of P(informative | pass rate).
    """
    halves = (slice(group_size), slice(group_size, None))
    return p_outcomes(
        alpha,
        beta,
        2 * group_size,
        lambda outcomes: all(0 < sum(outcomes[half]) < group_size for half in halves),
    )


def log_beta(alpha: float, beta: float) -> float:
    """Return the logarithm of the Beta function."""
    return math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)


@dataclass
class Label:
    """k of n rollouts of a prompt succeeded at a policy version.

    `prediction` is what was predicted of it before (NaN: nothing).
    """

    prompt: int
    successes: int
    rollouts: int
    version: int
    prediction: float
    weight: float = 1.0


def base_rate(labels: Sequence[Label]) -> float:
    """Return the weighted share of successes among labels in order of arrival, newer ones counting
    more, starting from one success in two.
    """
    kept = [
        0.999**age * label.weight
        for age, label in zip(reversed(range(len(labels))), labels, strict=True)
    ]
    start = 0.999 ** len(labels)
    successes = start + sum(
        weight * label.successes for weight, label in zip(kept, labels, strict=True)
    )
    rollouts = 2 * start + sum(
        weight * label.rollouts for weight, label in zip(kept, labels, strict=True)
    )
    return clamped(successes / rollouts)


def clamped(rate: float) -> float:
    """Return a pass rate kept away from 0 and 1."""
    return min(max(rate, 1e-3), 1 - 1e-3)


class Fit:
    """Posterior mean of some parameters over a grid of settings, whose log-likelihoods fade.

    Before 32 labels the configured ones.

    Args:
        configured: The first setting of the grid.
        grid: The others.
        fit: Whether to fit at all.
    """

    def __init__(
        self, configured: Sequence[float], grid: Iterable[Sequence[float]], fit: bool
    ) -> None:
        self.settings = [tuple(configured), *map(tuple, grid)]
        self.log_likelihoods, self.n_labels, self.fit = np.zeros(len(self.settings)), 0, fit

    def observe(self, log_likelihood: Callable[..., float]) -> None:
        """Take in one label, whose log-likelihood under a setting is given as a function of its
        parameters.
        """
        self.n_labels += 1
        if self.fit:
            self.log_likelihoods = 0.999 * self.log_likelihoods + [
                log_likelihood(*setting) for setting in self.settings
            ]

    def value(self) -> list[float]:
        """Return what is used now."""
        if not self.fit or self.n_labels < 32:
            return list(self.settings[0])
        weights = np.exp(self.log_likelihoods - self.log_likelihoods.max())
        return [float(mean) for mean in weights @ np.array(self.settings) / weights.sum()]


class BetaBelief:
    """Beta(b r + c m + S, b (1 - r) + c (1 - m) + F).

    Base rate r, prediction m, successes and failures faded by g per version.

    Args:
        base: b.
        text: c.
        discount: g.
        fit: Whether b, c and g are fitted.
        use_history: Whether S and F count.
    """

    BASES = (0.25, 0.5, 1.0, 2.0, 4.0)
    TEXTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    DISCOUNTS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)

    def __init__(
        self,
        base: float = 1.0,
        text: float = 4.0,
        discount: float = 0.97,
        *,
        fit: bool = False,
        use_history: bool = True,
    ) -> None:
        self.prior = Fit((base, text), itertools.product(self.BASES, self.TEXTS), fit)
        self.memory = Fit((discount,), ((discount,) for discount in self.DISCOUNTS), fit)
        self.use_history = use_history
        self.labels: list[Label] = []
        self.rate = base_rate(self.labels)
        self.histories: dict[int, tuple[float, float, int]] = {}
        """Successes, failures, and the version at which they stand."""

    def observe(self, label: Label) -> None:
        """Take in a label; a late one fades as if it had come in time."""
        (discount,), (base, text) = self.memory.value(), self.prior.value()
        self.prior.observe(lambda base, text: self.log_likelihood(label, base, text, discount))
        latest = self.histories.get(label.prompt, (0.0, 0.0, 0))[2]
        if self.use_history and label.prompt in self.histories and label.version > latest:
            self.memory.observe(lambda discount: self.log_likelihood(label, base, text, discount))
        (discount,) = self.memory.value()
        now = max(latest, label.version)
        successes, failures = self.history(label.prompt, now, discount)
        faded = discount ** (now - label.version)
        self.histories[label.prompt] = (
            successes + faded * label.successes,
            failures + faded * (label.rollouts - label.successes),
            now,
        )
        self.labels.append(label)
        self.rate = base_rate(self.labels)

    def history(self, prompt: int, version: int, discount: float) -> tuple[float, float]:
        """Return discounted successes and failures of a prompt at `version`.

        Or at its newest label if that is newer.
        """
        successes, failures, latest = self.histories.get(prompt, (0.0, 0.0, 0))
        faded = discount ** max(version - latest, 0)
        return faded * successes, faded * failures

    def log_likelihood(self, label: Label, base: float, text: float, discount: float) -> float:
        """Return the logarithm of the probability of a label, in its order of outcomes."""
        alpha, beta = self.counts(
            label.prompt, label.prediction, label.version, base, text, discount
        )
        return log_beta(
            alpha + label.successes, beta + label.rollouts - label.successes
        ) - log_beta(alpha, beta)

    def counts(
        self,
        prompt: int,
        prediction: float,
        version: int,
        base: float,
        text: float,
        discount: float,
    ) -> tuple[float, float]:
        """Return alpha and beta under some parameters."""
        successes, failures = (
            self.history(prompt, version, discount) if self.use_history else (0.0, 0.0)
        )
        text, mean = (0.0, 0.5) if math.isnan(prediction) else (text, clamped(prediction))
        return base * self.rate + text * mean + successes, base * (1 - self.rate) + text * (
            1 - mean
        ) + failures

    def posterior(self, prompt: int, prediction: float, version: int) -> tuple[float, float]:
        """Return alpha and beta as believed at `version`."""
        return self.counts(prompt, prediction, version, *self.prior.value(), *self.memory.value())


@dataclass(frozen=True)
class Walk:
    """Parameters of the logit-normal belief.

    Attributes:
        prior_variance: Variance of the logit of a prompt without labels.
        text_precision: 1 / variance of its logit around the prediction's.
        text_precision_labelled: The same for a prompt with labels.
        drift: What is added to a logit per version.
        noise: Variance of what is added at random.
        spread: Rate at which logits move away from 0.
    """

    prior_variance: float
    text_precision: float
    text_precision_labelled: float
    drift: float
    noise: float
    spread: float


class LogitNormalBelief:
    """Bayes' rule for one prompt, on a fine grid of logits.

    Args:
        walk: Parameters.
        rate: Base rate when the prompt's first label arrives.
        matched: Whether each label leaves a normal distribution of the same mean and variance, as
            the core approximates, instead of the posterior.
    """

    LOGITS = np.linspace(-30, 30, 3001)

    def __init__(self, walk: Walk, rate: float, *, matched: bool) -> None:
        self.walk, self.matched, self.labelled = walk, matched, False
        self.density = normal(self.LOGITS, around(rate, walk.prior_variance), walk.prior_variance)

    def wait(self, elapsed: int) -> None:
        """Let versions pass; a prompt without labels stays what all labels say."""
        if elapsed and self.labelled:
            growth = math.exp(min(max(self.walk.spread * elapsed, -1), 1))
            grown = np.interp(
                (self.LOGITS - self.walk.drift * elapsed) / growth, self.LOGITS, self.density
            )
            self.density = np.convolve(
                grown / grown.sum(), normal(self.LOGITS, 0, self.walk.noise * elapsed), mode="same"
            )

    def opinion(self, prediction: float) -> tuple[float, float]:
        """Return mean and precision of what the text says of the logit; precision 0: nothing."""
        precision = self.walk.text_precision_labelled if self.labelled else self.walk.text_precision
        if math.isnan(prediction) or not precision:
            return 0.0, 0.0
        return around(clamped(prediction), 1 / precision), precision

    def with_text(self, prediction: float) -> NDArray[np.float64]:
        """Return the density of the logit of the prompt, what the text says included."""
        mean, precision = self.opinion(prediction)
        fused = self.density * np.exp(-precision * (self.LOGITS - mean) ** 2 / 2)
        return np.asarray(fused / fused.sum())

    def without_text(self, density: NDArray[np.float64], prediction: float) -> NDArray[np.float64]:
        """Return the normal distribution.

        That what the text says turns into one with the moments of `density`.
        """
        text_mean, text_precision = self.opinion(prediction)
        mean = float(density @ self.LOGITS)
        variance = float(density @ (self.LOGITS - mean) ** 2)
        precision = 1 / variance - text_precision
        return normal(
            self.LOGITS, (mean / variance - text_precision * text_mean) / precision, 1 / precision
        )

    def observe(self, successes: int, rollouts: int, prediction: float) -> None:
        """Take in a label."""
        rates = 1 / (1 + np.exp(-self.LOGITS))
        likelihood = rates**successes * (1 - rates) ** (rollouts - successes)
        seen = self.with_text(prediction) * likelihood
        self.density = (
            self.without_text(seen / seen.sum(), prediction)
            if self.matched
            else self.density * likelihood
        )
        self.density, self.labelled = self.density / self.density.sum(), True

    def forecast(self, prediction: float, group_size: int) -> tuple[float, float]:
        """Return the mean pass rate and P(informative) of a group."""
        rates, density = 1 / (1 + np.exp(-self.LOGITS)), self.with_text(prediction)
        informative = 1 - rates**group_size - (1 - rates) ** group_size
        return float(density @ rates), float(density @ informative)


def normal(values: NDArray[np.float64], mean: float, variance: float) -> NDArray[np.float64]:
    """Return the normal distribution at evenly spaced values, normalised to 1."""
    density = np.exp(-((values - mean) ** 2) / (2 * variance))
    return np.asarray(density / density.sum())


def around(rate: float, variance: float) -> float:
    """Return the mean logit at which a normal distribution has about this mean pass rate.

    (MacKay's probit approximation).
    """
    return math.log(rate / (1 - rate)) * math.sqrt(1 + math.pi * variance / 8)


def nearest_to_window(
    predictions: NDArray[np.float32], low: float, high: float
) -> NDArray[np.float64]:
    """Return how far each prediction lies outside of the window."""
    outside = [max(np.float32(low) - value, value - np.float32(high), 0.0) for value in predictions]
    return np.array(outside, dtype=np.float64)
