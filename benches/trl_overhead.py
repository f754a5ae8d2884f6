"""depo's share of a TRL step.

CPU seconds that DepoGRPOTrainer adds, outside of the estimator's own compute.

The quickstart's policy and pool, 16 prompts x 8 rollouts a step (examples/trl_grpo.py), one
process, one thread. Measured within one run: drawing rows, observing rewards, replacing groups,
updating the estimator and logging, each less what the estimator itself took, against TRL's
`training_step`, which generates, scores and runs forward and backward. Quartiles over the steps.

    python benches/trl_overhead.py [--steps 40]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from depo import SelectorConfig
from depo.config import EstimatorConfig
from depo.estimator import BertDifficultyEstimator
from depo.integrations import trl as adapter
from depo.training.build import TimedEstimator
from depo.training.stopwatch import Stopwatch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from trl_grpo import make_trainer, policy_and_rows, silent_shares

WARM_UP = 6
"""Steps that are not counted: the selector's own warm-up, in which nothing is predicted, and first
calls.
"""

OWN = ("_depo_draw", "_depo_load", "_depo_scalar", "_depo_learn")
SELECTORS = {
    "depo without backfill (the default)": SelectorConfig.from_preset("depo", backfill=False),
    "depo, backfill of at most 4 generations": SelectorConfig.from_preset(
        "depo", backfill_rounds=4
    ),
}


class TimedTrainer(adapter.DepoGRPOTrainer):  # type: ignore[misc]
    """Books CPU seconds of each step under step, depo, predict and update."""

    def __init__(self, *args: Any, stopwatch: Stopwatch, **kwargs: Any) -> None:
        self.stopwatch, self.rows = stopwatch, []
        super().__init__(*args, **kwargs)
        for name in OWN:
            setattr(self, name, self._timed(getattr(self, name)))
        self.depo.observe = self._timed(self.depo.observe)
        for name in ("gather_rollouts", "join_rollouts"):
            setattr(adapter, name, self._timed(getattr(adapter, name)))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.stopwatch("step"):
            loss = super().training_step(*args, **kwargs)
        self.rows.append(self.stopwatch.take())
        return loss

    def _timed(self, function: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stopwatch("depo"):
                return function(*args, **kwargs)

        return timed


def shares(rows: list[Mapping[str, float]]) -> list[str]:
    """Return median milliseconds of a step and the quartiles of the shares of depo and of its
    estimator, in percent of the step.
    """
    names = ("step", "depo", "time/predict", "time/estimator_update")
    step, depo, predict, update = np.array(
        [[row.get(name, 0.0) for name in names] for row in rows[WARM_UP:]]
    ).T
    whole = step + depo + predict + update
    cells = [f"{np.median(whole) * 1e3:.0f}"]
    for part in (depo, predict + update):
        low, middle, high = np.quantile(part / whole, (0.25, 0.5, 0.75)) * 100
        cells.append(f"{middle:.1f} ({low:.1f} .. {high:.1f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    policy, rows = policy_and_rows()
    table = Table(
        "selector",
        "step, CPU ms",
        "depo, %",
        "its estimator, %",
        title="Share of a step's CPU, medians (quartiles)",
    )
    for name, selector in SELECTORS.items():
        stopwatch = Stopwatch()
        estimator = BertDifficultyEstimator(
            EstimatorConfig(), AutoTokenizer.from_pretrained(policy), seed=0
        )
        timed = TimedEstimator(estimator, stopwatch)
        trainer = make_trainer(
            TimedTrainer,
            policy,
            rows,
            steps,
            selector=selector,
            estimator=timed,
            stopwatch=stopwatch,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            silent_shares(trainer)
        table.add_row(name, *shares(trainer.rows))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
