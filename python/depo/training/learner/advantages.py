"""What rewards become before the loss sees them.

Group-relative advantages and DAPO's length penalty. NumPy and the Rust core only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from depo import _core
from depo.config import LossConfig
from depo.types.records import BoolArray, Float32Array


def group_advantages(
    rewards_BG: ArrayLike, config: LossConfig, tolerance: float
) -> tuple[Float32Array, BoolArray]:
    """Return GRPO's advantages and which groups carry any.

    (arXiv 2402.03300, section 4.1.2; without scaling arXiv 2503.20783).

    Args:
        rewards_BG: B >= 1 groups of G >= 1 rewards in any unit; NaN = unknown, left out of mean and
            deviation, advantage 0.
        config: Uses `scale_by_std`, `std_ddof` and `std_epsilon`.
        tolerance: Groups whose known rewards lie no further apart than this are uninformative;
            advantages exactly 0.

    Returns:
        advantages_BG, float32, in units of the group's standard deviation or, unscaled, of the
        reward; informative_B, bool.

    Raises:
        ValueError: Wrong shape, or a setting out of its range.
    """
    advantages_BG, informative_B, _ = _core.group_advantages(
        rewards_BG,
        scale_by_std=config.scale_by_std,
        ddof=config.std_ddof,
        epsilon=config.std_epsilon,
        tolerance=tolerance,
    )
    return advantages_BG, informative_B


def overlong_penalties(
    lengths: ArrayLike, max_new_tokens: int, buffer: int, penalty: float
) -> Float32Array:
    """Return what is added to each reward for using up the token budget.

    (DAPO, arXiv 2503.14476, eq. 13).

    Args:
        lengths: Tokens of each response, any shape [>= 0].
        max_new_tokens: Token budget of a response, L_max.
        buffer: Last tokens of the budget over which the penalty grows linearly, L_cache
            [0..max_new_tokens]; 0: no penalty.
        penalty: Penalty of a response that fills the budget [>= 0].

    Returns:
        float32, shape of `lengths`, within [-penalty, 0].

    Raises:
        ValueError: An argument is out of its range.
    """
    counts = np.asarray(lengths)
    if counts.size and counts.min() < 0:
        raise ValueError(f"lengths: got {counts.min()}, expected at least 0")
    if not 0 <= buffer <= max_new_tokens:
        raise ValueError(f"buffer: got {buffer}, expected 0..{max_new_tokens} (max_new_tokens)")
    if penalty < 0:
        raise ValueError(f"penalty: got {penalty}, expected at least 0")
    if buffer == 0:
        return np.zeros(counts.shape, np.float32)
    overlong_share = np.clip((counts - (max_new_tokens - buffer)) / buffer, 0.0, 1.0)
    return (-penalty * overlong_share).astype(np.float32)
