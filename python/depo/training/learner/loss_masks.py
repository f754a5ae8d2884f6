"""Masks on advantages.

These responses, or tokens of them, a group's loss leaves out or scales down. `loss.mask` names one.

Any function with the signature of `depo.types.protocols.AdvantageMask` can be plugged in. Methods
that need more than a group's tokens and rewards, such as NTHR (arXiv 2505.18830: hidden states) or
CAPO (arXiv 2510.00819: last-layer gradients and curvature), bring their own model or statistics
along, for instance as attributes of a callable object in the user's module.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import partial

import numpy as np

from depo.config import LossConfig
from depo.config.user_code import load_function
from depo.types.errors import ConfigError
from depo.types.protocols import AdvantageMask
from depo.types.records import Float32Array, Int64Array, RolloutGroup, TokenFactors


def load_mask(config: LossConfig) -> AdvantageMask | None:
    """Return the mask that `config.mask` names, None for none.

    Raises:
        ConfigError: The user's function cannot be imported, or does not take (group, rewards_G,
            advantages_G).
    """
    if not config.mask:
        return None
    if config.mask == "dagrpo":
        return partial(similarity_mask, threshold=config.mask_threshold)
    function = load_function(config.mask, "loss.mask")
    signature = inspect.signature(function)
    try:
        signature.bind(*range(3))
    except TypeError:
        raise ConfigError(
            f"loss.mask: got {config.mask!r} with parameters {signature}, expected (group, "
            f"rewards_G, advantages_G)"
        ) from None
    return function


def similarity_mask(
    group: RolloutGroup, rewards_G: Float32Array, advantages_G: Float32Array, *, threshold: float
) -> Float32Array:
    """Leave out responses that are nearly alike and yet have advantages of opposite signs.

    Their gradients push the same tokens both ways.

    After DaGRPO's gradient rectification (arXiv 2512.06337), which compares quality scores that an
    LLM judge gives; here it is the tokens that are compared, without a judge. The paper's second
    part, expert trajectories as anchors for hard prompts, is not reproduced. Similarity is
    difflib's ratio: 2 * (tokens in matching blocks) / (tokens of both), 1 for equal responses. The
    remaining advantages of the group are not centred again.

    Args:
        group: G responses.
        rewards_G: Not used: signs of advantages tell which responses oppose each other.
        advantages_G: [G]; 0 opposes nothing.
        threshold: Pairs above this similarity are left out [0..1].

    Returns:
        float32 [G]: 0 for both responses of each such pair, else 1.
    """
    factors_G = np.ones(len(group.response_ids), np.float32)
    for right in np.flatnonzero(advantages_G > 0):
        for wrong in np.flatnonzero(advantages_G < 0):
            if _more_similar(group.response_ids[right], group.response_ids[wrong], threshold):
                factors_G[[right, wrong]] = 0.0
    return factors_G


def _more_similar(first: Int64Array, second: Int64Array, threshold: float) -> bool:
    """Whether difflib's ratio of two token sequences is above the threshold.

    Two upper bounds, by lengths and by token counts, spare most comparisons.
    """
    matcher = SequenceMatcher(None, first.tolist(), second.tolist(), autojunk=False)
    return (
        matcher.real_quick_ratio() > threshold
        and matcher.quick_ratio() > threshold
        and matcher.ratio() > threshold
    )


def apply_mask(
    mask: AdvantageMask,
    groups: Sequence[RolloutGroup],
    rewards_BG: Float32Array,
    advantages_BG: Float32Array,
) -> TokenFactors:
    """Return the factor of every token, [B][G] arrays float32 [T].

    Groups without any advantage are not shown to the mask.

    Args:
        mask: Gives factors for the G responses of a group, or for each token of each of them.
        groups: B groups.
        rewards_BG: [B, G], NaN = unknown.
        advantages_BG: [B, G].

    Raises:
        ValueError: The mask returned something else than G factors or an array of factors per
            response, or a factor is negative or not finite.
    """
    return [
        _token_factors(
            mask(group, rewards_G, advantages_G)
            if advantages_G.any()
            else np.ones(advantages_G.size, np.float32),
            group,
        )
        for group, rewards_G, advantages_G in zip(groups, rewards_BG, advantages_BG, strict=True)
    ]


def _token_factors(
    factors: Float32Array | Sequence[Float32Array], group: RolloutGroup
) -> list[Float32Array]:
    """Spread what a mask returned over the tokens of a group."""
    lengths = [response.size for response in group.response_ids]
    arrays = [np.asarray(factor, np.float32) for factor in factors]
    if len(arrays) == len(lengths) and all(array.ndim == 0 for array in arrays):
        arrays = [
            np.full(length, array, np.float32)
            for length, array in zip(lengths, arrays, strict=True)
        ]
    if [array.shape for array in arrays] != [(length,) for length in lengths]:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"loss.mask: got factors of shapes {shapes}, expected {len(lengths)} numbers or "
            f"arrays of lengths {lengths}"
        )
    if not all(((array >= 0) & np.isfinite(array)).all() for array in arrays):
        raise ValueError(
            "loss.mask: got a factor that is negative or not finite, expected finite values >= 0"
        )
    return arrays
