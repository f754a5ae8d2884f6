"""How prompts are selected: one surface for every preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depo.config.keys import check_section, key, require

SELECTOR_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"policy": "uniform", "warmup_steps": 0, "explore_share": 0.0, "backfill": False},
    "dapo": {"policy": "uniform", "warmup_steps": 0, "explore_share": 0.0, "backfill_draws": "batch"},
    "depo_paper": {"policy": "window", "use_history": False, "warmup_steps": 100, "explore_share": 0.0, "backfill": False},
    "depo": {},
}
"""Differences of each preset from the defaults below: GRPO's epoch order; DAPO's dynamic sampling (arXiv 2503.14476); DEPO as published
(arXiv 2602.06375: window on the text prediction after 100 steps); this project's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectorConfig:
    """Which prompts are rolled out.

    The defaults are those of preset `depo`; `SelectorConfig.from_preset("depo_paper", warmup_steps=5)` starts from another one.

    Raises:
        ConfigError: A value is out of its range.
    """

    preset: str = key("depo", "named starting point: uniform (GRPO), dapo, depo_paper, depo; other keys override it")
    policy: Literal["uniform", "window", "budget"] = key(
        "budget", "uniform: everyone in epoch order; window: predicted reward within `window`; budget: the most probably informative candidates"
    )
    warmup_steps: int = key(5, "policy steps during which everyone is admitted, while the estimator learns [>= 0]")
    window: tuple[float, float] = key((0.15, 0.85), "policy window: admitted range of the predicted reward [0 <= low < high <= 1]")
    candidates_per_draw: int = key(6, "policy budget: candidates compared for each prompt drawn [>= 1]")
    explore_share: float = key(0.0625, "share of each batch drawn at random from what the policy rejects; measures false rejects [0..0.5]")
    max_age: int = key(0, "re-probe prompts without a label, or never drawn, for more than this many policy steps; 0: never [>= 0]")
    reprobe_share: float = key(0.25, "at most this share of a batch goes to re-probes [0..1]")
    source_floors: Mapping[str, float] = key({}, "policy budget: source name -> least share of each batch [sum <= 1]")
    scan_cap: int = key(40, "candidates looked at per prompt wanted before the nearest rejected ones fill the batch [>= 1]")
    use_history: bool = key(True, "fuse the text prediction with each prompt's own past results; off: text alone")
    discount: float = key(0.97, "weight of a past result after one policy step [0..1]")
    prior_concentration: float = key(4.0, "how many rollouts the text prediction counts for, before it is learned [> 0]")
    learn_concentration: bool = key(True, "fit prior_concentration online by the likelihood of the incoming results")
    success_threshold: float = key(0.5, "a reward at or above this is a success")
    tolerance: float = key(1e-6, "rewards of a group closer than this carry no signal [>= 0]")
    replay_capacity: int = key(2048, "reward targets remembered for the estimator [>= 1]")
    max_target_weight: float = key(10.0, "cap of a target's weight 1/admission [>= 1]")
    backfill: bool = key(True, "trainers: keep drawing until every place of the batch has an informative group (dynamic sampling)")
    backfill_draws: Literal["missing", "batch"] = key(
        "missing", "trainers: a backfill round draws the missing groups, or a whole batch and cuts the surplus (DAPO)"
    )
    backfill_rounds: int = key(16, "trainers: at most this many draws for one step [>= 1]")

    def __post_init__(self) -> None:
        low, high = self.window
        floors = self.source_floors.values()
        check_section("selection", self)
        require(self.preset in SELECTOR_PRESETS, "selection.preset", self.preset, "one of " + ", ".join(SELECTOR_PRESETS))
        require(0.0 <= low < high <= 1.0, "selection.window", self.window, "0 <= low < high <= 1")
        require(self.discount > 0.0, "selection.discount", self.discount, "above 0")
        expected = f"at most scan_cap = {self.scan_cap}"
        require(self.candidates_per_draw <= self.scan_cap, "selection.candidates_per_draw", self.candidates_per_draw, expected)
        expected = "shares >= 0 that sum to at most 1"
        require(all(share >= 0 for share in floors) and sum(floors) <= 1.0, "selection.source_floors", dict(self.source_floors), expected)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> SelectorConfig:
        """Return the preset's settings with `overrides` on top.

        Raises:
            ConfigError: Unknown preset, or a value out of its range.
        """
        require(preset in SELECTOR_PRESETS, "selection.preset", preset, "one of " + ", ".join(SELECTOR_PRESETS))
        return cls(preset=preset, **{**SELECTOR_PRESETS[preset], **overrides})
