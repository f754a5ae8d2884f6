"""CPU seconds of the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up CPU seconds by name: `with stopwatch("time/rollout"): ...`.

    A name may be entered many times.

    Inside an outermost block, such as a whole step, a part does not count what is booked under the
    parts within it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._within: list[float] = []
        """For each open block the seconds of the blocks that ended within it."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the CPU seconds of the block to `name`, also when it raises."""
        start = time.process_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            elapsed = time.process_time() - start
            booked_within = self._within.pop()
            own = elapsed
            if self._within:
                own -= booked_within
                self._within[-1] += elapsed
            self._seconds[name] = self._seconds.get(name, 0.0) + own

    def take(self) -> dict[str, float]:
        """Return the sums since the last call and start again from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds
