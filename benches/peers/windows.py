"""K positions whose score lies in a window, and a tenth of K from outside of it.

depo, NumPy, torch, numba.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numba
import numpy as np
import torch
from rounds import OURS, Operation

from depo.sampler.candidates import in_window

SIZES = {
    "256 of 1k": (256, 1_000),
    "256 of 16k": (256, 16_384),
    "1024 of 16k": (1024, 16_384),
    "1024 of 1M": (1024, 1_000_000),
    "1024 of 10M": (1024, 10_000_000),
}
LOW, HIGH, EXPLORE_SHARE = 0.25, 0.75, 0.1


@numba.njit
def listed(scores_N, low, high, inside, others, members_N, others_N):  # type: ignore[no-untyped-def]
    """One pass that lists both sides, then the start of a shuffle of each."""
    n_members, n_others = 0, 0
    for position in range(len(scores_N)):
        if low <= scores_N[position] <= high:
            members_N[n_members] = position
            n_members += 1
        else:
            others_N[n_others] = position
            n_others += 1
    drawn = np.empty(inside + others, np.int64)
    for place in range(inside):
        chosen = np.random.randint(place, n_members)
        members_N[place], members_N[chosen] = members_N[chosen], members_N[place]
        drawn[place] = members_N[place]
    for place in range(others):
        chosen = np.random.randint(place, n_others)
        others_N[place], others_N[chosen] = others_N[chosen], others_N[place]
        drawn[inside + place] = others_N[place]
    return drawn


@numba.njit
def rejected(scores_N, low, high, inside, others, is_drawn_N):  # type: ignore[no-untyped-def]
    """Positions drawn among all until both sides are full, as depo does where many are inside."""
    drawn, n_inside, n_others = np.empty(inside + others, np.int64), 0, 0
    while n_inside < inside or n_others < others:
        position = np.random.randint(0, len(scores_N))
        if is_drawn_N[position]:
            continue
        if low <= scores_N[position] <= high:
            if n_inside < inside:
                drawn[n_inside] = position
                n_inside += 1
                is_drawn_N[position] = True
        elif n_others < others:
            drawn[inside + n_others] = position
            n_others += 1
            is_drawn_N[position] = True
    is_drawn_N[drawn] = False
    return drawn


def cases(scores_N: np.ndarray, count: int) -> Mapping[str, Callable[[], object]]:
    random, draws, tensor_N = (
        np.random.default_rng(0),
        itertools.count(),
        torch.from_numpy(scores_N),
    )
    others = round(EXPLORE_SHARE * count)
    wanted = (count - others, others)
    members_N, others_N, is_drawn_N = (
        np.empty(len(scores_N), kind) for kind in (np.int64, np.int64, np.bool_)
    )
    is_drawn_N[:] = False

    def by_mask() -> np.ndarray:
        is_inside_N = (scores_N >= LOW) & (scores_N <= HIGH)
        sides = np.flatnonzero(is_inside_N), np.flatnonzero(~is_inside_N)
        return np.concatenate(
            [
                random.choice(side, number, replace=False, shuffle=False)
                for side, number in zip(sides, wanted, strict=True)
            ]
        )

    def by_rejection() -> np.ndarray:
        kept = [np.empty(0, np.int64), np.empty(0, np.int64)]
        while any(len(side) < number for side, number in zip(kept, wanted, strict=True)):
            positions = random.integers(0, len(scores_N), 3 * count)
            scores = scores_N[positions]
            is_inside = (scores >= LOW) & (scores <= HIGH)
            hits = (
                np.concatenate([kept[0], positions[is_inside]]),
                np.concatenate([kept[1], positions[~is_inside]]),
            )
            kept = [side[np.sort(np.unique(side, return_index=True)[1])] for side in hits]
        return np.concatenate([side[:number] for side, number in zip(kept, wanted, strict=True)])

    def by_torch() -> torch.Tensor:
        is_inside_N = (tensor_N >= LOW) & (tensor_N <= HIGH)
        sides = is_inside_N.nonzero()[:, 0], (~is_inside_N).nonzero()[:, 0]
        return torch.cat(
            [
                side[torch.randperm(len(side))[:number]]
                for side, number in zip(sides, wanted, strict=True)
            ]
        )

    return {
        OURS: lambda: in_window(
            scores_N, LOW, HIGH, count, next(draws), seed=0, explore_share=EXPLORE_SHARE
        ),
        "numpy mask + flatnonzero + choice": by_mask,
        "numpy rejection": by_rejection,
        "numba, one pass": lambda: listed(scores_N, LOW, HIGH, *wanted, members_N, others_N),
        "numba rejection": lambda: rejected(scores_N, LOW, HIGH, *wanted, is_drawn_N),
        "torch mask + nonzero + randperm": by_torch,
    }


def measure(rounds: int) -> list[Operation]:
    note = (
        "`depo.sampler.candidates.in_window`; half of the scores are inside, a tenth of the draws "
        "comes from outside. Rejection draws among all positions, in numba with a "
        "bit per position that stays between calls; depo does so too while it pays, and lists the "
        "members where it does not."
    )
    window = Operation(
        "Draws from a window of scores, with exploration",
        note,
        {
            "numpy mask + flatnonzero + choice": "4x",
            "numpy rejection": "4x",
            "numba, one pass": "2x",
        },
    )
    for size, (count, items) in SIZES.items():
        window.time(size, cases(np.random.default_rng(0).random(items, np.float32), count), rounds)
    return [window]
