"""How prompts are selected: one surface for every preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depo.config.keys import check_section, from_preset, key, require
from depo.config.presets import SELECTOR_PRESETS


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectorConfig:
    """Which prompts are rolled out.

    The defaults are those of preset `depo`; `SelectorConfig.from_preset("depo_paper",
    warmup_steps=5)` starts from another one.

    Raises:
        ConfigError: A value is out of its range.
    """

    preset: str = key(
        "depo", f"named starting point: {', '.join(SELECTOR_PRESETS)}; other keys override it"
    )
    rule: Literal[
        "uniform", "window", "budget", "thompson", "mopps", "greso", "polaris", "prime_pools", "dps"
    ] = key(
        "budget",
        "uniform: everyone in epoch order; window: predicted reward within `window`; budget: the "
        "most probably informative candidates; "
        "thompson: the same at a drawn pass rate; others: see the presets of that name",
    )
    rule_options: Mapping[str, float] = key(
        {},
        "numbers that one rule alone knows: budget optimism, curiosity; mopps decay, target; "
        "greso keep, adaptation, target_zero_variance; "
        "polaris stage_steps, drop_above; prime_pools hard_up_to, normal_up_to, hard_weight, "
        "easy_weight",
    )
    warmup_steps: int = key(
        5, "policy steps during which everyone is admitted, while the estimator learns", ge=0
    )
    window: tuple[float, float] = key(
        (0.15, 0.85), "rule window: admitted range of the predicted reward [0 <= low < high <= 1]"
    )
    candidates_per_draw: int = key(
        6,
        "budget, thompson, mopps, prime_pools, dps: candidates compared for each prompt drawn",
        ge=1,
    )
    candidates_from: Literal["epoch", "pool"] = key(
        "epoch",
        "epoch: these come in epoch order; pool: budget: the most promising of the whole pool, "
        "and one per prompt drawn in epoch order; mopps, "
        "prime_pools: drawn from the whole pool; no other rule",
    )
    min_age: int = key(
        10,
        "budget with candidates from the pool: a prompt is nominated so many policy steps after "
        "its last label, or later",
        ge=0,
    )
    explore_share: float = key(
        0.005,
        "share of each batch drawn at random from what the rule rejects; measures false rejects",
        ge=0,
        le=0.5,
    )
    explore_by: Literal["uniform", "ucb"] = key(
        "uniform",
        "uniform: explores all rejected alike; ucb: those of the source and fifth of believed "
        "pass rates that promise most informative groups (FDSW-UCB), "
        "which says nothing of the other rejected",
    )
    max_age: int | Literal["off"] = key(
        "off",
        "a prompt without a label for more than N policy steps is probed, as far as reprobe_share "
        "allows; off: never",
        ge=1,
    )
    probe_rollouts: int | Literal["all"] = key(
        1,
        "rollouts of such a probe, at most group_size; all: a whole group. Probes are learned "
        "from, not trained on",
        ge=1,
    )
    reprobe_share: float = key(
        0.25, "at most this share of a batch's rollouts goes to probes", ge=0, le=1
    )
    source_floors: Mapping[str, float] = key(
        {}, "policies that compare candidates: source name -> least share of each batch [sum <= 1]"
    )
    scan_cap: int = key(
        40,
        "candidates looked at per prompt wanted before the nearest rejected ones fill the batch",
        ge=1,
    )
    use_history: bool = key(
        True, "fuse the text prediction with each prompt's own past results; off: text alone"
    )
    belief: Literal["logit_normal", "beta"] = key(
        "logit_normal",
        "model of pass rates: logit_normal: random walk of the logit pass rate, with drift; beta: "
        "discounted counts",
    )
    belief_options: Mapping[str, float] = key(
        {},
        "where the belief's parameters start: logit_normal prior_variance, text_precision, "
        "text_precision_labelled, drift, noise, spread; "
        "beta base_concentration, text_concentration, discount",
    )
    fit_belief: bool = key(
        True,
        "fit those parameters online by the likelihood of the incoming results; off: they stay",
    )
    success_threshold: float = key(0.5, "a reward at or above this is a success")
    tolerance: float = key(1e-6, "rewards of a group closer than this carry no signal", ge=0)
    replay_capacity: int = key(2048, "reward targets remembered for the estimator", ge=1)
    max_target_weight: float = key(10.0, "cap of a target's weight 1/admission", ge=1)
    backfill: bool = key(
        True,
        "trainers: keep drawing until every place of the batch has an informative group (dynamic "
        "sampling)",
    )
    backfill_draws: Literal["missing", "batch"] = key(
        "missing",
        "trainers: a backfill round draws the missing groups, or a whole batch and cuts the "
        "surplus (DAPO)",
    )
    backfill_rounds: int = key(16, "trainers: at most this many draws for one step", ge=1)

    def __post_init__(self) -> None:
        check_section("selection", self)
        presets = "one of " + ", ".join(SELECTOR_PRESETS)
        require(self.preset in SELECTOR_PRESETS, "selection.preset", self.preset, presets)
        low, high = self.window
        fits = 0.0 <= low < high <= 1.0
        require(fits, "selection.window", self.window, "0 <= low < high <= 1")
        self._check_numbers()
        self._check_candidates()

    def _check_numbers(self) -> None:
        for name in ("rule_options", "belief_options"):
            options = getattr(self, name)
            finite = all(math.isfinite(value) for value in options.values())
            require(finite, f"selection.{name}", dict(options), "finite numbers")
        floors = dict(self.source_floors)
        fits = all(share >= 0 for share in floors.values()) and sum(floors.values()) <= 1.0
        expected = "shares >= 0 that sum to at most 1"
        require(fits, "selection.source_floors", floors, expected)

    def _check_candidates(self) -> None:
        compared, cap = self.candidates_per_draw, self.scan_cap
        expected = f"at most scan_cap = {cap}"
        require(compared <= cap, "selection.candidates_per_draw", compared, expected)
        by_belief = self.belief == "logit_normal" and self.use_history and compared >= 2
        # The core knows which rules search the pool; a configuration is checked without it.
        searched = self.rule in ("mopps", "prime_pools") or (self.rule == "budget" and by_belief)
        expected = (
            "epoch, or rule budget with belief logit_normal, use_history and "
            "candidates_per_draw of at least 2, or rule mopps or prime_pools"
        )
        fits = self.candidates_from == "epoch" or searched
        require(fits, "selection.candidates_from", self.candidates_from, expected)

    @property
    def measures_rejects(self) -> bool:
        """Whether what is rejected is also drawn at random, each with a known probability above 0.

        Only then anything is known of it.
        """
        return self.rule == "uniform" or (self.explore_share > 0 and self.explore_by == "uniform")

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> SelectorConfig:
        """Return the preset's settings with `overrides` on top.

        Raises:
            ConfigError: Unknown preset, or a value out of its range.
        """
        return from_preset(
            cls, {name: each.settings for name, each in SELECTOR_PRESETS.items()}, preset, overrides
        )
