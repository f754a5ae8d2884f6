"""Everything that a run writes while it goes, and what it shows on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from depo.config import TrainConfig
from depo.runs.metric_files import Journal, MetricsLog, StepRows
from depo.runs.progress import RunProgress
from depo.types.records import JudgedGroup


class RunLog:
    """Write all logs of one run and show its progress.

    metrics.jsonl, timings.jsonl, journal.jsonl, probes.jsonl, TensorBoard and the progress display.

    Args:
        run_directory: Where the files live; made if missing.
        config: The run's configuration.
        resume_step: Steps done at the checkpoint that the run continues from; None for a fresh run.
            Later rows are cut off.
    """

    def __init__(
        self, run_directory: Path, config: TrainConfig, *, resume_step: int | None
    ) -> None:
        self._metrics = MetricsLog(run_directory, resume_step=resume_step)
        self._journal = Journal(run_directory, resume_step=resume_step)
        self._probes = StepRows(run_directory / "probes.jsonl", resume_step=resume_step)
        self._progress = RunProgress(config.run.name, config.run.steps, done=resume_step or 0)

    def write(
        self, steps_done: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Write and show the row of one step."""
        self._metrics.write(steps_done, metrics, timings)
        self._progress.update(steps_done, metrics)

    def journal(self, steps_done: int, groups: Sequence[JudgedGroup]) -> None:
        """Write every group that was rolled out for one step."""
        for group in groups:
            self._journal.write(
                steps_done, group.draw, group.rollouts, group.rewards_G, group.verdict
            )

    def probes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the unfiltered probes of one evaluation."""
        for row in rows:
            self._probes.append(row)

    def __enter__(self) -> RunLog:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        for file in (self._metrics, self._journal, self._probes):
            file.close()
