"""Keyed random numbers.

Every draw is a pure function of (seed, purpose, counter), so there is no generator state to save or
to share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depo import _core


def derive_key(seed: int, purpose: str, *parts: int) -> int:
    """Return the random key (unsigned 64 bit) of one purpose, the same on every platform.

    Args:
        seed: Seed of the run, or the key to derive from, 0 <= seed < 2**64.
        purpose: What the draws are for; different purposes never share draws.
        parts: Counters that tell apart the draws of one purpose, each 0 <= part < 2**64.
    """
    return _core.derive_key(seed, purpose, parts)


def uniforms(
    keys: Sequence[int] | NDArray[np.uint64], first: int, count: int
) -> NDArray[np.float64]:
    """Return draws first .. first + count - 1 of each key, float64 [len(keys), count] in [0, 1)."""
    return _core.uniforms(np.asarray(keys, dtype=np.uint64), first, count)
