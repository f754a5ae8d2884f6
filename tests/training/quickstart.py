"""Forty steps of the real quickstart, and what they must reach."""

from __future__ import annotations

from pathlib import Path

from depo.config import load_config
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.toml"


def run_that_learns(policies: Path, directory: Path, *overrides: str) -> RunRecords:
    """Train, check, and return the records.

    Bounds are about half of what was measured, so that other CPUs' rounding does not decide.
    """
    config = load_config(
        QUICKSTART, ["--run.steps", "40", "--warm_start.cache", str(policies), *overrides]
    )
    assert Trainer(config, directory).run().status == "finished"
    records = RunRecords.read(directory)
    _, accuracies = records.series("eval/accuracy/frontier")
    assert accuracies[-1] >= accuracies[0] + 0.08
    steps, zero_variance = records.series("rollout/zero_variance_share")
    assert zero_variance[steps > 20].mean() <= 0.4
    assert records.series("selection/reject_share")[1][20:].mean() >= 0.3
    assert records.series("selection/sequences_saved_total")[1][-1] > 0
    return records
