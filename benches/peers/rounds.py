"""Cases of one operation timed against each other: same process, interleaved rounds, CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

CALL_SECONDS = 2e-3  # a case is called so often in a round that it takes about this long
SLOW_SECONDS = 0.5  # a case that takes longer is called in fewer rounds
SLOW_ROUNDS = 3
OURS = "depo"


@dataclass
class Operation:
    """What several libraries can do, and how long each takes by size.

    Attributes:
        title: What is done.
        note: What the reader should know of the comparison.
        bars: Ratio that is asked for, by case.
        seconds: CPU seconds of a call, the median over the rounds, by case and size.
        ratios: The same divided by that of depo in the same round, the median over the rounds.
    """

    title: str
    note: str
    bars: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)

    def time(self, size: str, cases: Mapping[str, Callable[[], object]], rounds: int) -> None:
        """Time each case, first depo's own, at one size.

        Every round calls all of them in another order.
        """
        calls = {name: _warm_calls(case) for name, case in cases.items()}
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        order = np.random.default_rng(0)
        for number in range(rounds):
            for name in order.permutation(list(cases)).tolist():
                if number < SLOW_ROUNDS or calls[name].seconds < SLOW_SECONDS:
                    seconds[name].append(calls[name]())
        for name, taken in seconds.items():
            self.seconds.setdefault(name, {})[size] = float(np.median(taken))
            pairs = zip(taken, seconds[OURS], strict=False)  # slow cases leave the last rounds out
            self.ratios.setdefault(name, {})[size] = float(
                np.median([theirs / ours for theirs, ours in pairs])
            )


@dataclass(frozen=True)
class _Calls:
    case: Callable[[], object]
    repeats: int
    seconds: float

    def __call__(self) -> float:
        start = time.process_time()
        for _ in range(self.repeats):
            self.case()
        return (time.process_time() - start) / self.repeats


def _warm_calls(case: Callable[[], object]) -> _Calls:
    case()
    once = _Calls(case, 1, 0.0)()
    return _Calls(case, max(1, int(CALL_SECONDS / max(once, 1e-7))), once)
