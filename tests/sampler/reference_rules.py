"""Slow, obvious restatements of the selection rules, one prompt at a time.

With the lots that the core draws (tests/reference.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.sampler.reference import (
    BetaBelief,
    Label,
    derive_key,
    p_informative,
    p_two_informative,
    uniform,
)

REJECTED = -math.inf


class Lots:
    """Uniform numbers in (0, 1] of one judgement, one after another, and what is made of them."""

    def __init__(self, seed: int, version: int, prompt: int) -> None:
        self.key, self.counter = derive_key(seed, "judge", [version, prompt]), 0

    def unit(self) -> float:
        """Return the next number."""
        self.counter += 1
        return 1.0 - uniform(self.key, self.counter - 1)

    def normal(self) -> float:
        """Return a standard normal number.

        Marsaglia's polar method, of whose two results one is used.
        """
        while True:
            x, y = 2 * self.unit() - 1, 2 * self.unit() - 1
            if 0 < x * x + y * y < 1:
                return x * math.sqrt(-2 * math.log(x * x + y * y) / (x * x + y * y))

    def log_gamma(self, shape: float) -> float:
        """Return the logarithm of a gamma variate.

        Marsaglia and Tsang at shape + 1, times U^(1 / shape).
        """
        d = shape + 1 - 1 / 3
        while True:
            x = self.normal()
            v = (1 + x / math.sqrt(9 * d)) ** 3
            if v > 0 and math.log(self.unit()) < x * x / 2 + d - d * v + d * math.log(v):
                return math.log(d * v) + math.log(self.unit()) / shape

    def beta(self, alpha: float, beta: float) -> float:
        """Return a Beta variate: X / (X + Y) of two gamma variates."""
        log_x, log_y = self.log_gamma(alpha), self.log_gamma(beta)
        return 1 / (1 + math.exp(min(log_y - log_x, 700)))


@dataclass
class Policy:
    """What every reference keeps.

    All labels in order of arrival, each with the version at which it arrived.

    Attributes:
        seed: Seed of the lots.
        group_size: G.
        n_prompts: Size of the pool.
        options: The options of the rule that differ from the defaults.
        labels: Labels so far.
        belief: What depo believes after some of them.
    """

    seed: int
    group_size: int
    n_prompts: int
    options: Mapping[str, float]
    labels: list[Label] = field(default_factory=list)
    belief: BetaBelief = field(default_factory=BetaBelief)

    def of(self, prompt: int) -> list[Label]:
        """Return the labels of one prompt."""
        return [label for label in self.labels if label.prompt == prompt]

    def rates(self, prompt: int) -> list[float]:
        """Return the pass rates of one prompt's labels."""
        return [label.successes / label.rollouts for label in self.of(prompt)]

    def posterior(self, prompt: int, version: int) -> tuple[float, float]:
        """Return alpha and beta of depo's discounted Beta without text."""
        for label in self.labels[len(self.belief.labels) :]:
            self.belief.observe(label)
        return self.belief.posterior(prompt, math.nan, version)

    def score(self, prompt: int, version: int) -> float:
        """Return what the rule thinks of a prompt at a version.

        Higher is better, REJECTED is rejected.
        """
        raise NotImplementedError


class Budget(Policy):
    """P(informative) and some of its standard deviations.

    Optimism, or for prompts without a label curiosity, up to one label per prompt of the pool.
    """

    def score(self, prompt: int, version: int) -> float:
        posterior = self.posterior(prompt, version)
        mean = p_informative(*posterior, self.group_size)
        curiosity = self.options["curiosity"] * min(len(self.labels) / self.n_prompts, 1)
        deviations = self.options["optimism"] if self.of(prompt) else curiosity
        return mean + deviations * math.sqrt(
            max(p_two_informative(*posterior, self.group_size) - mean**2, 0)
        )


class Thompson(Policy):
    """A pass rate drawn from depo's discounted Beta without text.

    The probability that a group at it is informative.
    """

    def score(self, prompt: int, version: int) -> float:
        p = Lots(self.seed, version, prompt).beta(*self.posterior(prompt, version))
        return float(1 - p**self.group_size - (1 - p) ** self.group_size)


class Mopps(Policy):
    """Beta(1, 1), moved towards (1, 1) by the decay at each label, plus its counts."""

    def score(self, prompt: int, version: int) -> float:
        decay, alpha, beta = self.options.get("decay", 0.5), 1.0, 1.0
        for label in self.of(prompt):
            alpha = decay * alpha + (1 - decay) * 1 + label.successes
            beta = decay * beta + (1 - decay) * 1 + label.rollouts - label.successes
        return -(
            (Lots(self.seed, version, prompt).beta(alpha, beta) - self.options.get("target", 0.5))
            ** 2
        )


class Greso(Policy):
    """Keeps with probability max(p^z, .01); p moves by .01 per version."""

    def score(self, prompt: int, version: int) -> float:
        rates = self.rates(prompt)
        silent = rates[-1] if rates and rates[-1] in (0.0, 1.0) else None
        run = 0
        while silent is not None and run < len(rates) and rates[-1 - run] == silent:
            run += 1
        easy, hard = self.probabilities(version)
        keep = max((easy if silent == 1.0 else hard) ** run, 0.01)
        return (
            0.0
            if uniform(derive_key(self.seed, "judge", [version, prompt]), 0) < keep
            else REJECTED
        )

    def probabilities(self, version: int) -> tuple[float, float]:
        """Return p for easy and for hard prompts after all earlier versions."""
        easy = hard = self.options.get("keep", 0.5)
        target, step = (
            self.options.get("target_zero_variance", 0.25),
            self.options.get("adaptation", 0.01),
        )
        for past in range(version):
            prompts = [label.prompt for label in self.labels if label.version <= past]
            rates = [
                label.successes / label.rollouts for label in self.labels if label.version == past
            ]
            if rates and len(set(prompts)) < len(prompts):
                easy = (
                    max(easy - step, 0.05)
                    if rates.count(1.0) / len(rates) >= target / 3
                    else min(easy + step, 0.95)
                )
                hard = (
                    max(hard - step, 0.05)
                    if rates.count(0.0) / len(rates) >= 2 * target / 3
                    else min(hard + step, 0.95)
                )
        return easy, hard


class Polaris(Policy):
    """Rejects whoever's mean over a completed stage was above .9."""

    def score(self, prompt: int, version: int) -> float:
        steps = int(self.options.get("stage_steps", 20))
        for stage in range(version // steps):
            rates = [
                label.successes / label.rollouts
                for label in self.of(prompt)
                if label.version // steps == stage
            ]
            if rates and np.mean(rates) > self.options.get("drop_above", 0.9):
                return REJECTED
        return 0.0


class PrimePools(Policy):
    """Exponential keys: the prompt whose exponential clock, of rate w, rings first comes first."""

    def score(self, prompt: int, version: int) -> float:
        latest = (self.rates(prompt) or [math.nan])[-1]
        hard, normal = self.options.get("hard_up_to", 0.25), self.options.get("normal_up_to", 0.75)
        weight = (
            self.options.get("hard_weight", 0.2)
            if latest <= hard
            else self.options.get("easy_weight", 0.2)
            if latest > normal
            else 1.0
        )
        return -(-math.log(Lots(self.seed, version, prompt).unit()) / weight)


class Dps(Policy):
    """A chain over none, some, all solved, moved one version at a time from version 0 on."""

    def score(self, prompt: int, version: int) -> float:
        observed = {label.version: label.successes for label in self.of(prompt)}
        counts: NDArray[np.float64] = np.ones((3, 3))
        before = belief = np.full(3, 1 / 3)
        for past in range(version):
            transition = counts / counts.sum(axis=0)
            if past in observed:
                state = {0: 0, self.group_size: 2}.get(observed[past], 1)
                belief = np.eye(3)[state]
                joint = np.outer(belief, before) * transition
                counts = counts + joint / joint.sum()
                transition = counts / counts.sum(axis=0)
            before, belief = belief, transition @ belief
        return float(belief[1])


REFERENCES: Mapping[str, type[Policy]] = {
    "budget": Budget,
    "thompson": Thompson,
    "mopps": Mopps,
    "greso": Greso,
    "polaris": Polaris,
    "prime_pools": PrimePools,
    "dps": Dps,
}
