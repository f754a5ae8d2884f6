"""How a run looks on the console.

One live line on a terminal, a plain line now and then elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINES = 20
"""About how many lines a whole run prints where stdout is no terminal."""

_SHOWN = {
    "reward/mean": "reward {:.3f}",
    "rollout/informative_share": "informative {:.0%}",
    "selection/sequences_saved_total": "saved {:,.0f} rollouts",
}


class RunProgress:
    """Shows the steps of a run as they are done.

    A context manager: leaving it leaves the last line standing.

    Args:
        name: Name of the run.
        total_steps: Steps of the whole run [>= 1].
        done: Steps done before, by the run that this one continues.
        console: Where to print; default: stdout.
    """

    def __init__(
        self, name: str, total_steps: int, *, done: int = 0, console: Console | None = None
    ) -> None:
        self._console = console or Console(highlight=False)
        self._total, self._done, self._start = total_steps, done, time.monotonic()
        self._every = max(1, total_steps // PLAIN_LINES)
        columns = (
            TextColumn(name, markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(name, total=total_steps, completed=done, summary="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` steps are done, with the step's metrics.

        An evaluation gets a line that stays.
        """
        summary = _summary(metrics)
        self._bar.update(self._task, completed=step, summary=summary)
        if not self._console.is_terminal and (step % self._every == 0 or step == self._total):
            self.say(f"step {step}/{self._total}  {summary}  {self._remaining(step)}")
        if math.isfinite(metrics.get("eval/accuracy", math.nan)):
            self.say(f"step {step}/{self._total}  held-out accuracy {metrics['eval/accuracy']:.3f}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _remaining(self, step: int) -> str:
        if step <= self._done:
            return "ETA unknown"
        seconds = (time.monotonic() - self._start) / (step - self._done) * (self._total - step)
        return f"ETA {int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _summary(metrics: Mapping[str, float]) -> str:
    return "  ".join(
        text.format(metrics[name])
        for name, text in _SHOWN.items()
        if math.isfinite(metrics.get(name, math.nan))
    )
