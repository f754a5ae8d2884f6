"""One selector through one log under one budget: tick by tick, resumable after each."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from depo.replay.log import RolloutLog
from depo.replay.picks import Picks
from depo.replay.selectors import Selector
from depo.types.errors import ConfigError, StateError

ROUNDING = 1e-9
"""0.29 * 100 is a hair below 29."""


class Replay:
    """Goes through the ticks of a log.

    At each, the selector picks a share of what is recorded there and is shown only that.

    Args:
        log: The log.
        selector: A fresh selector of this log.
        budget: Share of each tick's rollouts that is spent at most, in (0, 1]; a group's worth at
            least.

    Attributes:
        ticks_done: Ticks played.
        cpu_seconds: CPU time of this process spent in `step` so far, in seconds.

    Raises:
        ConfigError: The budget is out of range.
    """

    def __init__(self, log: RolloutLog, selector: Selector, budget: float) -> None:
        if not 0.0 < budget <= 1.0:
            raise ConfigError(f"budget: got {budget}, expected a share in (0, 1]")
        self.log, self.budget = log, budget
        self.ticks_done = 0
        self.cpu_seconds = 0.0
        self._selector = selector
        self._parts: list[Picks] = []

    @property
    def done(self) -> bool:
        """Whether every tick has been played."""
        return self.ticks_done == self.log.n_ticks

    @property
    def picks(self) -> Picks:
        """Everything picked so far."""
        return Picks.join(self._parts)

    def step(self) -> None:
        """Play the next tick."""
        start = time.process_time()
        tick = self.log.tick(self.ticks_done)
        self._parts.append(self._selector.play(tick, places(self.budget, len(tick.prompts))))
        self.ticks_done += 1
        self.cpu_seconds += time.process_time() - start

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a bit-exact continuation needs, the log apart."""
        return {
            "budget": self.budget,
            "ticks_done": self.ticks_done,
            "cpu_seconds": self.cpu_seconds,
            "picks": self.picks.state_dict(),
            "selector": self._selector.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, from a replay of the same log by the same selector.

        Raises:
            StateError: The state is of another budget or a longer log.
        """
        if state["budget"] != self.budget or state["ticks_done"] > self.log.n_ticks:
            raise StateError(
                f"replay: got {state['ticks_done']} ticks at budget {state['budget']}, expected "
                f"{self.log.n_ticks} at most at {self.budget}"
            )
        self._selector.load_state_dict(state["selector"])
        self._parts = [Picks.from_state(state["picks"])]
        self.ticks_done, self.cpu_seconds = int(state["ticks_done"]), float(state["cpu_seconds"])


def places(budget: float, available: int) -> int:
    """Return how many of the available groups a budget pays for in full.

    A whole number, at least 1.
    """
    return max(1, math.floor(budget * available + ROUNDING))
