"""How much each group of a batch counts in the loss.

By its pass rate, and by the probability with which its prompt was drawn.

A weight multiplies the advantages of its group, which multiplies the group's policy-gradient loss:
every surrogate is linear in a positive factor of the advantages. The KL term is not weighted. NumPy
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depo.config import LossConfig
from depo.types.errors import StateError
from depo.types.records import Int64Array

Float64Array = NDArray[np.float64]

STATE_VERSION = 1


def pass_rate_levels(pass_rates_B: ArrayLike, group_size: int) -> Int64Array:
    """Return for each group the k of the nearest pass rate k / G strictly between 0 and 1.

    Int64 [B] in 1..G-1.

    With binary rewards that are all known k is the number of right responses. A group whose rewards
    differ may still have a pass rate of 0 or 1 where rewards are graded; it counts to the level
    next to it.

    Args:
        pass_rates_B: Pass rates of groups with a gradient, [B] in [0, 1].
        group_size: Responses of a group, G >= 2.

    Raises:
        ValueError: A pass rate is unknown or out of its range.
    """
    rates_B = np.asarray(pass_rates_B, np.float64)
    if not ((rates_B >= 0) & (rates_B <= 1)).all():
        raise ValueError(
            f"pass_rates_B: got {rates_B[~((rates_B >= 0) & (rates_B <= 1))][0]}, expected values "
            f"in [0, 1]"
        )
    return np.clip(np.rint(rates_B * group_size), 1, group_size - 1).astype(np.int64)


def static_power(pass_rates_B: ArrayLike, power: float) -> Float64Array:
    """Return weights (mu (1 - mu))^power, scaled to mean 1 over the groups: float64 [B].

    GRPO's advantages weigh a group by sqrt(mu (1 - mu)) already, Dr. GRPO's by mu (1 - mu): power
    -1/2, or -1, makes all groups count alike.

    Args:
        pass_rates_B: Pass rates mu, [B] in (0, 1).
        power: Any exponent; 0 weighs all alike.

    Raises:
        ValueError: A pass rate is out of its range.
    """
    rates_B = np.asarray(pass_rates_B, np.float64)
    if not ((rates_B > 0) & (rates_B < 1)).all():
        raise ValueError(
            f"pass_rates_B: got {rates_B[~((rates_B > 0) & (rates_B < 1))][0]}, expected values "
            f"in (0, 1)"
        )
    weights_B = (rates_B * (1.0 - rates_B)) ** power
    return weights_B / weights_B.mean() if weights_B.size else weights_B


def importance_weights(admissions_B: ArrayLike, max_weight: float) -> Float64Array:
    """Return min(1 / admission, max_weight), float64 [B].

    Horvitz-Thompson weights, which undo the selection on average (arXiv 2603.04135 for pruning).

    The sum over the drawn groups of weight * gradient has the expectation of the sum over all
    candidates, if every candidate can be drawn and no weight is capped. A group of zero variance
    has zero gradient whatever its weight, so that of all that the selection passes over only its
    false rejects matter. Exact for one round of draws and for loss denominators that do not depend
    on who was drawn ("constant", and "sequence_mean" with a fixed number of groups); with
    "token_mean" and with backfill the batch is a ratio estimate. The weights of a batch add up to
    about the number of candidates: the scale of the gradient rises by candidates per draw, which
    AdamW takes out again and gradient clipping does not.

    Args:
        admissions_B: Probability with which each group's prompt was to be drawn, [B] in (0, 1].
        max_weight: Cap, which bounds the variance [>= 1].

    Raises:
        ValueError: A probability is out of its range.
    """
    probabilities_B = np.asarray(admissions_B, np.float64)
    valid_B = (probabilities_B > 0) & (probabilities_B <= 1)
    if not valid_B.all():
        raise ValueError(
            f"admissions_B: got {probabilities_B[~valid_B][0]}, expected values in (0, 1]"
        )
    return np.minimum(1.0 / probabilities_B, max_weight)


class DaroWeights:
    """DARO: weights under which every pass rate contributes the same amount of loss.

    (arXiv 2510.09001), in a guarded closed form.

    The paper trains one weight per pass rate mu on w L_mu - ln w, L_mu being the token-averaged
    loss of the groups with that pass rate; the minimum is w = 1 / L_mu. On-policy L_mu is a length
    gap: zero where right and wrong responses are equally long, negative where the right ones are
    longer, and then that objective has no minimum. Here w = 1 / (running mean of |L_mu|) within
    [daro_min_weight, daro_max_weight]; a pass rate with fewer than `daro_min_groups` groups in the
    batch counts proportionally less, so that a single group does not get the loss of a crowd; and
    weights are scaled to mean 1 over tokens, so that they move loss between groups without raising
    the learning rate.

    L_mu is the loss at ratio 1, where it needs advantages and lengths alone: weights are fixed from
    the whole batch before its first optimizer step, the same for every minibatch and micro-batch.

    Args:
        config: Uses the keys `daro_...`.
        group_size: Responses of a group, G >= 2.
    """

    def __init__(self, config: LossConfig, group_size: int) -> None:
        self._config, self._group_size = config, group_size
        self._mean_losses = np.full(group_size, np.nan)
        """Running mean of |L_mu| by level k of mu = k / G; NaN: not seen yet.

        Level 0 stays unused.
        """

    def __call__(
        self, levels_B: Int64Array, tokens_B: ArrayLike, losses_B: ArrayLike
    ) -> Float64Array:
        """Take the batch into the running means and return its weights, float64 [B].

        With mean 1 over tokens. K levels, P of them present.

        Args:
            levels_B: Levels of the groups that have a gradient, as `pass_rate_levels` returns them.
            tokens_B: Response tokens of each group [>= 0].
            losses_B: Sum of each group's token losses at ratio 1: minus the sum of the advantages
                of its tokens.
        """
        n_levels = self._group_size
        tokens_B = np.asarray(tokens_B, np.float64)
        tokens_K = np.bincount(levels_B, tokens_B, n_levels)
        present_K = tokens_K > 0
        if not present_K.any():
            return np.ones(tokens_B.size)
        losses_P = np.abs(
            np.bincount(levels_B, np.asarray(losses_B, np.float64), n_levels)[present_K]
            / tokens_K[present_K]
        )
        counts_P = np.bincount(levels_B, minlength=n_levels)[present_K]
        weights_P = self._level_weights(present_K, losses_P) * np.minimum(
            1.0, counts_P / self._config.daro_min_groups
        )
        factors_K = np.zeros(n_levels)
        factors_K[present_K] = weights_P / weights_P.sum() * tokens_B.sum() / tokens_K[present_K]
        weights_B: Float64Array = factors_K[levels_B]
        return weights_B

    def _level_weights(self, present_K: NDArray[np.bool_], losses_P: Float64Array) -> Float64Array:
        """Update the running means of the P present levels and return weights, float64 [P].

        A weight is 1 / mean within its bounds.
        """
        decay = self._config.daro_decay
        means_P = self._mean_losses[present_K]
        means_P = np.where(np.isnan(means_P), losses_P, decay * means_P + (1.0 - decay) * losses_P)
        self._mean_losses[present_K] = means_P
        weights_P: Float64Array = 1.0 / np.clip(
            means_P, 1.0 / self._config.daro_max_weight, 1.0 / self._config.daro_min_weight
        )
        return weights_P

    def state_dict(self) -> dict[str, Any]:
        """Return the running means."""
        return {"version": STATE_VERSION, "mean_losses": self._mean_losses.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the continuation is bit for bit the same.

        Raises:
            StateError: Another version or group size, or a mean that is negative or infinite.
        """
        if state.get("version") != STATE_VERSION:
            raise StateError(
                f"group weights state version: got {state.get('version')!r}, expected "
                f"{STATE_VERSION}"
            )
        mean_losses = np.array(state["mean_losses"], np.float64)
        if mean_losses.shape != self._mean_losses.shape:
            raise StateError(
                f"group weights state: got mean losses of shape {mean_losses.shape}, expected "
                f"({self._group_size},), one per pass rate"
            )
        if (mean_losses < 0).any() or np.isinf(mean_losses).any():
            raise StateError(
                f"group weights state: got mean losses {mean_losses.tolist()}, expected finite "
                f"values >= 0, or NaN"
            )
        self._mean_losses = mean_losses
