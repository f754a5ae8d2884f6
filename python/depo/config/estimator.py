"""The [estimator] section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depo.config.keys import check_section, from_preset, key, require

ESTIMATOR_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "online": {},
    "frozen": {"encoder_lr_scale": 0.0, "learning_rate": 5e-4},
    "depo_paper": {
        "trunk_sizes": (1024, 512),
        "learning_rate": 2e-4,
        "encoder_lr_scale": 0.2,
        "replay_steps": 0,
        "max_length": 512,
        "overflow": "head",
        "importance_weighted": False,
        "pooling": "cls",
        "ranking_weight": 3.0,
    },
}
"""`online` gets going within ~15 steps of 16 prompts.

`frozen` is for a pretrained encoder, named by `model`: trunk and heads alone learn, and each text
is
encoded once. Replaying a recorded GRPO run, rates of 2e-4 to 5e-4 find informative prompts soonest,
mean pooling finds them sooner than cls, and trunk sizes, dropout, weight decay and replay steps
make no difference beyond noise. `depo_paper` is the published recipe (arXiv 2602.06375 and its
release)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatorConfig:
    """The difficulty estimator: an encoder with a score head and a distillation head."""

    enabled: bool = key(True, "use an estimator; presets uniform and dapo never need one")
    preset: str = key(
        "online", "named starting point: online, frozen, depo_paper; other keys override it"
    )
    model: str = key(
        "",
        "directory of a Hugging Face encoder, or of an estimator of an earlier run; empty: a "
        "fresh BERT of the sizes below on the policy's tokenizer",
    )
    hidden_size: int = key(64, "fresh BERT: width", ge=1)
    layers: int = key(2, "fresh BERT: layers", ge=1)
    heads: int = key(4, "fresh BERT: attention heads", ge=1)
    feed_forward: int = key(128, "fresh BERT: width of the feed-forward layers", ge=1)
    pooling: Literal["cls", "mean"] = key(
        "mean", "what the trunk reads: the encoder's first position, or the mean over all"
    )
    trunk_sizes: tuple[int, int] = key((256, 128), "widths of the trunk between encoder and heads")
    trunk_dropout: float = key(0.1, "dropout in the trunk", ge=0, lt=1)
    max_length: int = key(256, "tokens read of a prompt", ge=8)
    overflow: Literal["head", "tail", "head_tail"] = key(
        "head_tail", "which part of a longer prompt is read; longer prompts are counted"
    )
    learning_rate: float = key(2e-3, "AdamW learning rate of trunk and heads", gt=0)
    encoder_lr_scale: float = key(
        1.0,
        "learning rate of the encoder relative to that; 0: frozen, each text is encoded once",
        ge=0,
    )
    weight_decay: float = key(0.01, "AdamW weight decay", ge=0)
    grad_clip: float = key(1.0, "largest gradient norm", gt=0)
    replay_steps: int = key(
        2, "optimizer steps on replayed targets after the one on fresh targets", ge=0
    )
    replay_batch: int = key(48, "targets of a replay step", ge=1)
    distill_weight: float = key(0.5, "weight of the log-prob distillation loss", ge=0)
    ranking_weight: float = key(1.0, "weight of the pairwise ranking loss, 3.0 in the paper", ge=0)
    ranking_gap: float = key(
        0.05, "pairs whose targets differ by more than this are ranked", ge=0, le=1
    )
    ranking_margin: float = key(0.5, "margin of the ranking loss, in logits", ge=0)
    importance_weighted: bool = key(True, "weight targets by 1/admission")
    predict_batch: int = key(64, "prompts scored together", ge=1)
    tokens_per_pass: int = key(
        16384,
        "tokens that an update keeps activations of; with more, the encoder runs in parts, each "
        "of them twice",
        ge=1,
    )

    def __post_init__(self) -> None:
        check_section("estimator", self)
        require(
            self.preset in ESTIMATOR_PRESETS,
            "estimator.preset",
            self.preset,
            "one of " + ", ".join(ESTIMATOR_PRESETS),
        )
        require(
            self.hidden_size % self.heads == 0,
            "estimator.hidden_size",
            self.hidden_size,
            f"a multiple of heads = {self.heads}",
        )
        require(
            min(self.trunk_sizes) >= 1, "estimator.trunk_sizes", self.trunk_sizes, "widths >= 1"
        )

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> EstimatorConfig:
        """Return the preset's settings with `overrides` on top.

        Raises:
            ConfigError: Unknown preset, or a value out of its range.
        """
        return from_preset(cls, ESTIMATOR_PRESETS, preset, overrides)
