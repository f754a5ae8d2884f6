"""Candidates in epoch order against candidates from the whole pool.

In worlds made of a real run: `python benches/pool_worlds.py LOG`.

LOG is the GRPO log of docs/selectors.md (JSON Lines, `n_correct_by_visit` with one visit per
epoch). A world's prompts are copies of its prompts: each follows the pass rate of one of them
through the run, a mean over five epochs, moved by a fixed amount on the logit scale. What is drawn
does not change what is learned. With text, an estimator's prediction is the logit of the present
rate with an error that stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depo import _core
from depo.config import SelectorConfig
from depo.sampler.core import core_settings

GROUP_SIZE = 8
STEPS = 500
HALF_WINDOW = 2
JITTER = 0.5
TEXT_ERROR = 2.0

Rates = NDArray[np.float64]


def trajectories(log: Path) -> Rates:
    """Return pass rates [prompts, epochs]."""
    rows = [
        json.loads(line)["n_correct_by_visit"]
        for line in log.read_text(encoding="utf-8").splitlines()
    ]
    epochs = min(map(len, rows))
    correct = (
        np.array([row[:epochs] for row in rows if len(row) >= epochs], dtype=float) / GROUP_SIZE
    )
    padded = np.pad(correct, ((0, 0), (HALF_WINDOW, HALF_WINDOW)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * HALF_WINDOW + 1, axis=1).mean(
        axis=2
    )


class World:
    """N prompts whose pass rates move with the version."""

    def __init__(self, rates: Rates, prompts: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rates = rates
        self.copied = rng.integers(len(rates), size=prompts)
        self.jitter = rng.normal(0.0, JITTER, prompts)
        self.text_error = rng.normal(0.0, TEXT_ERROR, prompts)

    def logits(self, prompts: NDArray[np.int64], version: int) -> Rates:
        """Return logit pass rates of some prompts.

        Infinite for those that never or always succeed.
        """
        position = version / STEPS * (self.rates.shape[1] - 1)
        below, share = int(position), position % 1
        row = self.rates[self.copied[prompts]]
        rate = (1 - share) * row[:, below] + share * row[:, below + 1]
        with np.errstate(divide="ignore"):
            return np.log(rate) - np.log1p(-rate) + self.jitter[prompts]


def play(
    world: World, config: SelectorConfig, places: int, text: bool, seed: int
) -> dict[str, float]:
    """Draw through a run; return its measures."""
    rng, prompts = np.random.default_rng(seed), len(world.copied)
    settings = core_settings(config)
    core = _core.Sampler(
        np.arange(prompts, dtype=np.uint64),
        np.zeros(prompts, np.uint32),
        group_size=GROUP_SIZE,
        seed=seed,
        source_floors=[0.0],
        **settings,
    )
    visits, informative, drawn, squares = np.zeros(prompts, int), 0, 0, 0.0
    for version in range(STEPS):
        while (candidates := core.propose(places, version)).size:
            predicted = (
                1
                / (
                    1
                    + np.exp(
                        -np.clip(world.logits(candidates, version), -6, 6)
                        - world.text_error[candidates]
                    )
                )
                if text
                else np.full(candidates.size, np.nan)
            )
            core.offer(candidates, predicted.astype(np.float32), version)
        taken = core.take(places, version)
        rates = 1 / (1 + np.exp(-world.logits(taken["prompts"], version)))
        rewards = (rng.random((rates.size, GROUP_SIZE)) < rates[:, None]).astype(np.float32)
        seen = core.observe(
            taken["draw_ids"], rewards, np.full(rates.size, 0.5, np.float32), version
        )
        visits[taken["prompts"]] += 1
        informative, drawn = informative + int(seen["informative"].sum()), drawn + rates.size
        squares += float(((seen["p_informative"] - seen["informative"]) ** 2).sum())
    return {
        "informative": informative / drawn,
        "brier": squares / drawn,
        "distinct": (visits > 0).mean(),
        "draws per distinct": drawn / (visits > 0).sum(),
        "99 %": float(np.quantile(visits[visits > 0], 0.99)),
        "most": float(visits.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--prompts", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--places", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--min-ages", type=int, nargs="+", default=[10])
    options = parser.parse_args()
    rates = trajectories(options.log)
    selectors = {
        "uniform": SelectorConfig.from_preset("uniform"),
        "prime_pools epoch": SelectorConfig.from_preset("prime_pools"),
        "prime_pools pool": SelectorConfig.from_preset("prime_pools", candidates_from="pool"),
        "depo epoch": SelectorConfig.from_preset("depo", warmup_steps=0),
        **{
            f"depo pool, {age}": SelectorConfig.from_preset(
                "depo", warmup_steps=0, candidates_from="pool", min_age=age
            )
            for age in options.min_ages
        },
    }
    for prompts in options.prompts:
        for text in (False, True):
            for name, config in selectors.items():
                if text and not name.startswith("depo"):
                    continue
                runs = [
                    play(World(rates, prompts, seed), config, options.places, text, seed)
                    for seed in range(options.seeds)
                ]
                means = {key: np.mean([run[key] for run in runs]) for key in runs[0]}
                print(
                    f"{prompts:>7,} {'text' if text else '    '} {name:<18}",
                    " ".join(f"{key} {value:.3f}" for key, value in means.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
