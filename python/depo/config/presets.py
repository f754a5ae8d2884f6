"""Named ways to select prompts.

What each does, where it comes from, and how it differs from the defaults of SelectorConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class SelectorPreset(NamedTuple):
    """A named starting point for SelectorConfig.

    Attributes:
        summary: What it does, and what of its source it leaves out.
        source: Where it comes from.
        settings: Differences from the defaults of SelectorConfig.
    """

    summary: str
    source: str
    settings: Mapping[str, Any]


_WITHOUT_TEXT: Mapping[str, Any] = {"warmup_steps": 0, "explore_share": 0.0}
"""A method that reads no text waits for no estimator; those below explore by their own means or not
at all.
"""

SELECTOR_PRESETS: Mapping[str, SelectorPreset] = {
    "uniform": SelectorPreset(
        "Every prompt in epoch order; groups without a signal are trained on as they come.",
        "GRPO, arXiv 2402.03300",
        {"rule": "uniform", "backfill": False, **_WITHOUT_TEXT},
    ),
    "dapo": SelectorPreset(
        "Every prompt in epoch order; whole batches are drawn until enough groups have a signal "
        "(dynamic sampling), the surplus is cut.",
        "DAPO, arXiv 2503.14476",
        {"rule": "uniform", "backfill_draws": "batch", **_WITHOUT_TEXT},
    ),
    "polaris": SelectorPreset(
        "Epoch order; at the end of each stage of `stage_steps` steps, prompts with a mean above "
        "0.9 over the stage are dropped for good. The source "
        "ends stages by hand. Left out: the filtered initial pool, temperatures per stage, "
        "copying good groups over silent ones.",
        "Polaris, 2025, github.com/ChenxinAn-fdu/POLARIS",
        {"rule": "polaris", "backfill": False, **_WITHOUT_TEXT},
    ),
    "depo_paper": SelectorPreset(
        "Keeps prompts whose pass rate, predicted from text alone, lies within 0.15..0.85; "
        "everyone in the first 100 steps.",
        "DEPO, arXiv 2602.06375",
        {
            "rule": "window",
            "use_history": False,
            "warmup_steps": 100,
            "explore_share": 0.0,
            "backfill": False,
        },
    ),
    "greso": SelectorPreset(
        "Skips a prompt whose last z visits were all silent, but for a chance of max(p^z, 0.01); "
        "p adapts, for easy and hard prompts apart, so that "
        "a quarter of the groups is silent; draws until enough groups have a signal. Left out: "
        "rounds sized by the share of silent groups.",
        "GRESO, arXiv 2506.02177",
        {"rule": "greso", **_WITHOUT_TEXT},
    ),
    "mopps": SelectorPreset(
        "Draws a pass rate from a Beta per prompt, decayed by 0.5 when its next label arrives; of "
        "16 candidates per place takes those nearest "
        "to 0.5. Left out: the threshold strategy, counts from earlier rollouts.",
        "MoPPS, arXiv 2507.04632",
        {"rule": "mopps", "candidates_per_draw": 16, "backfill": False, **_WITHOUT_TEXT},
    ),
    "thompson": SelectorPreset(
        "Draws a pass rate from depo's own belief (text and history) and takes the candidates "
        "whose groups would most probably be informative at it.",
        "Thompson sampling, Biometrika 1933, on this project's belief",
        {"rule": "thompson", "explore_share": 0.0},
    ),
    "prime_pools": SelectorPreset(
        "Draws prompts by the weight of their latest group's pool: pass rate up to 0.25 weighs "
        "0.2, up to 0.75 and unseen 1, above 0.2; groups "
        "without a signal are replaced. The source draws with replacement from the whole pool, "
        "this without, from 16 candidates per place.",
        "prime-rl, DifficultyPoolSampler, 2026, github.com/PrimeIntellect-ai/prime-rl",
        {"rule": "prime_pools", "candidates_per_draw": 16, **_WITHOUT_TEXT},
    ),
    "dps": SelectorPreset(
        "A Markov chain per prompt over none, some, all solved, its transitions learned from the "
        "labels; of 16 candidates per place takes those most "
        "probably in the middle. Left out: decaying counts, other priors, the entropy bonus.",
        "DPS, arXiv 2603.10887",
        {"rule": "dps", "candidates_per_draw": 16, "backfill": False, **_WITHOUT_TEXT},
    ),
    "depo": SelectorPreset(
        "One calibrated belief from text and history, with fitted parameters; the candidates that "
        "are most probably informative, plus optimism for what is "
        "uncertain; a few drawn at random from the rest; draws until enough groups have a signal.",
        "this project",
        {},
    ),
}
"""Name -> preset."""
