"""The [loss] section of a depo-train configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depo.config.keys import check_section, from_preset, key, require

LOSS_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"aggregation": "sequence_mean", "clip_high": 0.2},
    "dr_grpo": {"aggregation": "constant", "clip_high": 0.2, "scale_by_std": False},
    "dapo": {},
    "gspo": {
        "surrogate": "gspo",
        "aggregation": "sequence_mean",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
    },
    "cispo": {"surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0},
}
"""GRPO (arXiv 2402.03300), Dr.

GRPO (arXiv 2503.20783), DAPO (arXiv 2503.14476), GSPO (arXiv 2507.18071), CISPO (arXiv 2506.13585,
which has no lower
bound; ratios up to 5 as in ScaleRL, arXiv 2510.13786): differences from LossConfig's defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The policy-gradient loss and its advantages."""

    preset: str = key(
        "dapo", "named starting point: grpo, dr_grpo, dapo, gspo, cispo; other keys override it"
    )
    surrogate: Literal["clipped", "gspo", "cispo"] = key(
        "clipped",
        "PPO's clip per token; GSPO's ratio per sequence; CISPO's clipped weight on log-probs",
    )
    aggregation: Literal["sequence_mean", "token_mean", "constant"] = key(
        "token_mean", "how token losses are averaged"
    )
    clip_low: float = key(
        0.2, "lower clip of the importance ratio: 1 - clip_low; 1: none", ge=0, le=1
    )
    clip_high: float = key(0.28, "upper clip of the importance ratio: 1 + clip_high", ge=0)
    dual_clip: float | Literal["off"] = key(
        "off", "with a negative advantage the loss is at most this times |advantage|", gt=0
    )
    kl_weight: float = key(
        0.0, "weight of the k3 KL to the reference policy (the start checkpoint); 0: off", ge=0
    )
    scale_by_std: bool = key(True, "divide advantages by the group's standard deviation")
    std_ddof: int = key(
        1, "degrees of freedom taken off in that deviation: 1 as in TRL and verl, or 0", ge=0, le=1
    )
    std_epsilon: float = key(1e-6, "added to the deviation; verl 1e-6, TRL 1e-4", ge=0)
    overlong_buffer: int = key(
        0, "DAPO's soft length penalty over the last so many tokens of the budget; 0: off", ge=0
    )
    overlong_penalty: float = key(1.0, "largest length penalty", ge=0)
    mask: str = key("", "what scales single advantages down: dagrpo, module:function, or nothing")
    mask_threshold: float = key(
        0.95,
        "mask dagrpo: a right and a wrong response more alike than this are both left out",
        ge=0,
        le=1,
    )
    group_weighting: Literal["none", "daro", "static_power"] = key(
        "none", "weights of groups by pass rate mu: DARO's, or (mu (1 - mu))^group_power"
    )
    group_power: float = key(
        -0.5,
        "group_weighting static_power: the exponent; -0.5 flattens GRPO's preference for mu = "
        "1/2, above 0 sharpens it",
    )
    daro_decay: float = key(
        0.9,
        "group_weighting daro: what a step leaves of the running means of |loss| per pass rate",
        ge=0,
        lt=1,
    )
    daro_min_weight: float = key(
        1.0,
        "group_weighting daro: least 1 / |loss| of a pass rate, before weights are scaled to mean "
        "1",
        gt=0,
    )
    daro_max_weight: float = key(
        20.0,
        "group_weighting daro: largest 1 / |loss| of a pass rate, before weights are scaled to "
        "mean 1",
        gt=0,
    )
    daro_min_groups: int = key(
        4,
        "group_weighting daro: pass rates with fewer groups in the batch weigh proportionally less",
        ge=1,
    )
    rollout_correction: Literal["auto", "off", "truncate"] = key(
        "auto",
        "weight tokens by min(learner / rollout probability, rollout_correction_cap); auto: if "
        "vLLM generates in bfloat16",
    )
    rollout_correction_cap: float = key(
        2.0, "largest weight of rollout_correction; what it cuts off is bias", ge=1
    )
    importance_weighted: bool = key(
        False,
        "weight groups by 1/admission: the gradient of all candidates, if each could be drawn "
        "(selection.explore_share > 0)",
    )
    max_importance_weight: float = key(10.0, "cap of that weight; what it cuts off is bias", ge=1)

    def __post_init__(self) -> None:
        check_section("loss", self)
        require(
            self.preset in LOSS_PRESETS,
            "loss.preset",
            self.preset,
            "one of " + ", ".join(LOSS_PRESETS),
        )
        require(
            self.dual_clip == "off" or self.surrogate != "cispo",
            "loss.dual_clip",
            self.dual_clip,
            "off: with surrogate cispo every weight is clipped already",
        )
        known_mask = self.mask in ("", "dagrpo") or ":" in self.mask
        require(
            known_mask,
            "loss.mask",
            self.mask,
            "dagrpo, module:function, path/file.py:function, or nothing",
        )
        least = self.daro_min_weight
        require(
            self.daro_max_weight >= least,
            "loss.daro_max_weight",
            self.daro_max_weight,
            f"at least loss.daro_min_weight = {least}",
        )
        token_level = self.group_weighting != "daro" or self.aggregation != "sequence_mean"
        expected = (
            "token_mean or constant: with sequence_mean the loss that daro divides by is 0 "
            "on-policy, whatever the pass rate"
        )
        require(token_level, "loss.aggregation", self.aggregation, expected)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> LossConfig:
        """Return the preset's settings with `overrides` on top.

        Raises:
            ConfigError: Unknown preset, or a value out of its range.
        """
        return from_preset(cls, LOSS_PRESETS, preset, overrides)
