"""From the rewards of a training batch to the advantages that the loss sees.

Length penalty, group baseline, mask, weights of the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from depo.config import TrainConfig
from depo.training.learner.advantages import group_advantages, overlong_penalties
from depo.training.learner.group_weights import (
    DaroWeights,
    Float64Array,
    importance_weights,
    pass_rate_levels,
    static_power,
)
from depo.training.learner.loss_masks import apply_mask, load_mask
from depo.types.errors import StateError
from depo.types.records import Float32Array, Int64Array, JudgedGroup, TokenFactors


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapedAdvantages:
    """What a batch of B groups hands to the learner.

    Attributes:
        advantages_BG: float32 [B, G], weights of the groups included.
        token_factors: [B][G] arrays float32 [T] from the mask; None without one.
        metrics: `loss/...`, those that apply.
    """

    advantages_BG: Float32Array
    token_factors: TokenFactors | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class AdvantageShaper:
    """Does what the [loss] section says about advantages, batch after batch.

    Args:
        config: Uses the loss, the group size and token budget of rollouts, and the tolerance of the
            selection.

    Raises:
        ConfigError: The mask cannot be loaded.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._loss, self._rollout, self._tolerance = (
            config.loss,
            config.rollout,
            config.selection.tolerance,
        )
        self._mask = load_mask(config.loss)
        self._daro = (
            DaroWeights(config.loss, config.rollout.group_size)
            if config.loss.group_weighting == "daro"
            else None
        )

    def __call__(self, groups: Sequence[JudgedGroup]) -> ShapedAdvantages:
        """Return the advantages of a batch; DARO takes the batch into its running means.

        The length penalty shapes advantages, but never decides whether a group counts as
        informative to the sampler.
        """
        if not groups:
            return ShapedAdvantages(
                advantages_BG=np.zeros((0, self._rollout.group_size), np.float32)
            )
        rewards_BG = np.stack([group.rewards_G for group in groups])
        lengths_BG = np.array(
            [[ids.size for ids in group.rollouts.response_ids] for group in groups]
        )
        advantages_BG, _ = group_advantages(
            self._penalized(rewards_BG, lengths_BG), self._loss, self._tolerance
        )
        token_factors = (
            apply_mask(self._mask, [group.rollouts for group in groups], rewards_BG, advantages_BG)
            if self._mask
            else None
        )
        advantage_sums_BG = advantages_BG * (
            _per_response(np.sum, token_factors) if token_factors else lengths_BG
        )
        trained = np.flatnonzero(advantage_sums_BG.any(axis=1)).tolist()
        weights_B = np.ones(len(groups))
        weights_B[trained] = self._weights(
            [groups[index] for index in trained],
            lengths_BG[trained].sum(1),
            advantage_sums_BG[trained].sum(1),
        )
        return ShapedAdvantages(
            advantages_BG=advantages_BG * weights_B[:, None].astype(np.float32),
            token_factors=token_factors,
            metrics=self._weight_metrics(weights_B[trained])
            | (_mask_metrics(token_factors, advantages_BG) if token_factors else {}),
        )

    def _penalized(self, rewards_BG: Float32Array, lengths_BG: Int64Array) -> Float32Array:
        loss = self._loss
        if not loss.overlong_buffer:
            return rewards_BG
        return rewards_BG + overlong_penalties(
            lengths_BG, self._rollout.max_new_tokens, loss.overlong_buffer, loss.overlong_penalty
        )

    def _weights(
        self, groups: Sequence[JudgedGroup], tokens_B: Int64Array, advantage_sums_B: Float64Array
    ) -> Float64Array:
        """Return the weight of each group that has a gradient.

        Advantage_sums_B adds up the advantages of a group's tokens.
        """
        weights_B = np.ones(len(groups))
        if self._loss.group_weighting != "none":
            levels_B = pass_rate_levels(
                [group.verdict.pass_rate for group in groups], self._rollout.group_size
            )
            if self._daro is not None:
                weights_B = self._daro(levels_B, tokens_B, -advantage_sums_B)
            else:
                weights_B = static_power(
                    levels_B / self._rollout.group_size, self._loss.group_power
                )
        if self._loss.importance_weighted:
            weights_B = weights_B * importance_weights(
                [group.draw.admission for group in groups], self._loss.max_importance_weight
            )
        return weights_B

    def _weight_metrics(self, weights_B: Float64Array) -> dict[str, float]:
        weighted = self._loss.group_weighting != "none" or self._loss.importance_weighted
        return (
            {"loss/weight_min": float(weights_B.min()), "loss/weight_max": float(weights_B.max())}
            if weighted and weights_B.size
            else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a bit-exact continuation needs: DARO's running means, or nothing."""
        return {} if self._daro is None else {"daro": self._daro.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        A state of DARO is left aside where this configuration has none.

        Raises:
            StateError: This configuration has DARO and the state has not, or one of another kind.
        """
        if self._daro is None:
            return
        if "daro" not in state:
            raise StateError(
                "shaper state: got no group weights, which this configuration has; continue with "
                "loss.group_weighting = none, or start another run"
            )
        self._daro.load_state_dict(state["daro"])


def _per_response(
    count: Callable[[Float32Array], float], token_factors: TokenFactors
) -> Float64Array:
    """Return a number for each response, [B, G], from the factors of its tokens."""
    return np.array(
        [[count(factors) for factors in of_group] for of_group in token_factors], np.float64
    )


def _mask_metrics(token_factors: TokenFactors, advantages_BG: Float32Array) -> dict[str, float]:
    """Return the share of tokens whose advantage the mask changed, among those that have one.

    Nothing where there are none.
    """
    tokens = _per_response(np.size, token_factors)[advantages_BG != 0].sum()
    changed = _per_response(lambda factors: int(np.count_nonzero(factors != 1)), token_factors)[
        advantages_BG != 0
    ].sum()
    return {"loss/masked_share": float(changed / tokens)} if tokens else {}
